import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { SqlValue } from "../../src/ports/sql.ts";
import { columnParser } from "../../src/postgres/drivers/columns.ts";
import { encodeValues } from "../../src/postgres/drivers/values.ts";

describe("values on their way in", () => {
  test("become the text that Postgres reads", () => {
    const cases: ReadonlyArray<readonly [SqlValue, string | null]> = [
      ["text", "text"],
      ["", ""],
      [1.5, "1.5"],
      [-0, "0"],
      [NaN, "NaN"],
      [-Infinity, "-Infinity"],
      [2n ** 62n, "4611686018427387904"],
      [true, "true"],
      [false, "false"],
      [null, null],
      [undefined, null],
      [new Uint8Array([0, 10, 255]), "\\x000aff"],
      [new Uint8Array(), "\\x"],
      [new Date(Date.UTC(2026, 0, 2, 3, 4, 5, 6)), "2026-01-02T03:04:05.006Z"],
      [new Date(Date.UTC(12026, 0, 2)), "12026-01-02T00:00:00.000Z"],
      [new Date(Date.UTC(-43, 2, 15)), "0044-03-15T00:00:00.000Z BC"],
      [new Date("0000-06-01T00:00:00Z"), "0001-06-01T00:00:00.000Z BC"],
      [[], "{}"],
      [["a", null, "NULL", "", 'q"\\{},', " "], '{"a",NULL,"NULL","","q\\"\\\\{},"," "}'],
      [[1, 2n, true], '{"1","2","true"}'],
    ];
    for (const [value, text] of cases) assert.deepEqual(encodeValues([value]), [text]);
  });

  test("are refused if SQL has no place for them, by the number of the placeholder and without the value", () => {
    const bad: readonly unknown[] = [
      { a: "secret" },
      () => 1,
      Symbol("secret"),
      new Map(),
      new Date(NaN),
      "secret\0",
    ];
    for (const value of [...bad, ...bad.map((item) => [item])]) {
      assert.throws(() => encodeValues([1, value as SqlValue]), (error: unknown) => {
        assert.ok(isMillstreamError(error, "INVALID_ARGUMENT"), String(error));
        assert.match(error.message, /\$2/);
        return !error.message.includes("secret");
      });
    }
  });

  test("are refused if there are more than the protocol can count", () => {
    assert.equal(encodeValues(Array.from({ length: 65_533 }, () => 1)).length, 65_533);
    const tooMany = Array.from({ length: 65_534 }, () => 1);
    assert.throws(
      () => encodeValues(tooMany),
      (error: unknown) => isMillstreamError(error, "INVALID_ARGUMENT"),
    );
  });
});

describe("columns on their way out", () => {
  const TIMESTAMPTZ = 1184;
  const BYTEA = 17;

  test("timestamptz becomes a Date in every time zone and era, cut to milliseconds", () => {
    const cases: ReadonlyArray<readonly [string, number]> = [
      ["2026-11-23 12:34:56.789123+00", Date.UTC(2026, 10, 23, 12, 34, 56, 789)],
      ["2026-11-23 12:34:56+05:30", Date.UTC(2026, 10, 23, 7, 4, 56)],
      ["2026-11-23 12:34:56.5-08", Date.UTC(2026, 10, 23, 20, 34, 56, 500)],
      ["1890-01-01 00:00:00+00:19:32", Date.UTC(1889, 11, 31, 23, 40, 28)],
      ["12026-01-01 00:00:00+00", Date.UTC(12026, 0, 1)],
      ["0044-03-15 00:00:00+00 BC", Date.UTC(-43, 2, 15)],
      ["0099-01-01 00:00:00+00", new Date("0099-01-01T00:00:00Z").getTime()],
    ];
    for (const [text, time] of cases) {
      const date = columnParser(TIMESTAMPTZ)(text) as Date;
      assert.equal(date.getTime(), time, text);
    }
  });

  test("infinity becomes an invalid Date", () => {
    assert.ok(Number.isNaN((columnParser(TIMESTAMPTZ)("infinity") as Date).getTime()));
    assert.ok(Number.isNaN((columnParser(TIMESTAMPTZ)("-infinity") as Date).getTime()));
  });

  test("bytea is read in both forms of bytea_output", () => {
    assert.deepEqual(columnParser(BYTEA)("\\x00ff7F".toLowerCase()), new Uint8Array([0, 255, 127]));
    assert.deepEqual(columnParser(BYTEA)("a\\\\b\\000\\377"), new Uint8Array([97, 92, 98, 0, 255]));
  });

  test("arrays are read with nulls, quotes, nesting and bounds", () => {
    const text = columnParser(1009);
    assert.deepEqual(text("{}"), []);
    assert.deepEqual(text('{a,NULL,"NULL","","q\\"\\\\{},"}'), ["a", null, "NULL", "", 'q"\\{},']);
    assert.deepEqual(text("{{a,b},{c,NULL}}"), [["a", "b"], ["c", null]]);
    assert.deepEqual(columnParser(1007)("[0:1]={5,6}"), [5, 6]);
    assert.deepEqual(columnParser(1016)("{9223372036854775807,NULL}"), ["9223372036854775807", null]);
    assert.deepEqual(columnParser(1000)("{t,f,NULL}"), [true, false, null]);
    assert.deepEqual(columnParser(3807)('{"{\\"a\\": [1, \\"x\\"]}",NULL}'), [{ a: [1, "x"] }, null]);
    assert.deepEqual(columnParser(1001)('{"\\\\x00ff"}'), [new Uint8Array([0, 255])]);
  });

  test("what the table does not know stays text", () => {
    assert.equal(columnParser(999_999)("{a,b}"), "{a,b}");
    assert.equal(columnParser(1082)("2026-01-01"), "2026-01-01");
    assert.equal(columnParser(20)("9223372036854775807"), "9223372036854775807");
  });
});
