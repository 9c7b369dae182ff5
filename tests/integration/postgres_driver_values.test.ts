import { PGlite } from "@electric-sql/pglite";
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { SqlDriver, SqlValue } from "../../src/ports/sql.ts";
import { pgliteDriver } from "../../src/postgres/drivers/pglite.ts";
import { sqlTag } from "../../src/postgres/tag.ts";
import { service } from "../support/require.ts";
import { DRIVERS, type TestDriver, uniqueName } from "./support/postgres_drivers.ts";

const postgres = service("postgres");

/** What each column of each driver must be. `undefined` in place of values: the statement has none. */
const COLUMNS: ReadonlyArray<
  readonly [sql: string, expected: unknown, values?: readonly SqlValue[]]
> = [
  ["1::int2", 1],
  ["2147483647::int4", 2147483647],
  ["9007199254740993::int8", "9007199254740993"],
  ["1.10::numeric", "1.10"],
  ["0.1::float8", 0.1],
  ["'NaN'::float8", NaN],
  ["1.5::float4", 1.5],
  ["true", true],
  ["false", false],
  ["null::bool", null],
  ["null::text", null],
  ["null::jsonb", null],
  ["''::text", ""],
  ["'ä€😀'::text", "ä€😀"],
  ["'a'::char(3)", "a  "],
  [
    "'2026-11-23 12:34:56.789123+02'::timestamptz",
    new Date("2026-11-23T10:34:56.789Z"),
  ],
  ["'2026-11-23'::date", "2026-11-23"],
  ["'2026-11-23 12:34:56'::timestamp", "2026-11-23 12:34:56"],
  ["'12:34:56'::time", "12:34:56"],
  ["'1 day'::interval", "1 day"],
  [`'{"a":[1,null,"x"],"b":{}}'::jsonb`, { a: [1, null, "x"], b: {} }],
  ["'null'::jsonb", null],
  [`'"text"'::json`, "text"],
  ["'[1]'::json", [1]],
  ["'\\xdeadbeef'::bytea", new Uint8Array([0xde, 0xad, 0xbe, 0xef])],
  ["''::bytea", new Uint8Array()],
  [
    "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
  ],
  ["'1234'::oid", "1234"],
  ["'(1,2)'::point", "(1,2)"],
  ["'[1,5)'::int4range", "[1,5)"],
  ["pg_current_xact_id()::text::xid8 > '1'::xid8", true],
  ["array[1,null,3]::int4[]", [1, null, 3]],
  ["array[1,9007199254740993]::int8[]", ["1", "9007199254740993"]],
  ["array[1.5]::numeric[]", ["1.5"]],
  ["array[0.5]::float8[]", [0.5]],
  ["array[true,false,null]", [true, false, null]],
  [`array['a','NULL',null,'','q"\\{},']::text[]`, [
    "a",
    "NULL",
    null,
    "",
    'q"\\{},',
  ]],
  ["array[]::text[]", []],
  ["array[['a','b'],['c','d']]", [["a", "b"], ["c", "d"]]],
  ["array['2026-01-01 00:00:00+00']::timestamptz[]", [
    new Date("2026-01-01T00:00:00Z"),
  ]],
  ["array['2026-01-01']::date[]", ["2026-01-01"]],
  [`array['{"a":"x,\\"y\\""}']::jsonb[]`, [{ a: 'x,"y"' }]],
  ["array['\\x00ff']::bytea[]", [new Uint8Array([0, 255])]],
  ["array['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11']::uuid[]", [
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
  ]],
  ["array['a','b']::varchar[]", ["a", "b"]],
  ["array['a','b']::name[]", ["a", "b"]],

  ["$1::int4", 5, [5]],
  ["$1::int8", "9007199254740993", [9007199254740993n]],
  ["$1::float8", 1e21, [1e21]],
  ["$1::numeric", "0.1", [0.1]],
  ["$1::bool", true, [true]],
  ["$1::bool", false, [false]],
  ["$1::text", "true", [true]],
  ["$1::text", 'it\'s "a" \\ $1 {x}', ['it\'s "a" \\ $1 {x}']],
  ["$1::text", null, [null]],
  ["$1::text", null, [undefined]],
  ["$1::timestamptz", new Date("2026-11-23T10:34:56.789Z"), [
    new Date("2026-11-23T10:34:56.789Z"),
  ]],
  ["$1::timestamptz", new Date("0001-01-01T00:00:00Z"), [
    new Date("0001-01-01T00:00:00Z"),
  ]],
  ["$1::timestamptz", new Date(Date.UTC(-43, 2, 15)), [
    new Date(Date.UTC(-43, 2, 15)),
  ]],
  ["$1::timestamptz", new Date(Date.UTC(20_000, 0, 1)), [
    new Date(Date.UTC(20_000, 0, 1)),
  ]],
  ["$1::bytea", new Uint8Array([0, 1, 254, 255]), [
    new Uint8Array([0, 1, 254, 255]),
  ]],
  ["$1::jsonb", { a: [1, "x"] }, ['{"a":[1,"x"]}']],
  ["$1::json", "text", ['"text"']],
  ["$1::text[]", ["a", null, "NULL", "null", "", " ", 'q"\\{},', "é", "\n"], [
    ["a", null, "NULL", "null", "", " ", 'q"\\{},', "é", "\n"],
  ]],
  ["$1::text[]", [], [[]]],
  ["$1::text[]", [null], [[null]]],
  ["$1::int4[]", [1, 2, null], [[1, 2, null]]],
  ["$1::int8[]", ["1", "9007199254740993"], [[1n, 9007199254740993n]]],
  ["$1::bool[]", [true, false], [[true, false]]],
  ["$1::jsonb[]", [{ a: 1 }], [['{"a":1}']]],
  ["2 = any($1)", true, [[1, 2]]],
  ["'b' = any($1)", true, [["a", "b"]]],
  ["(select array_agg(x order by x) from unnest($1::text[]) x)", ["a", "b"], [[
    "b",
    "a",
  ]]],
  ["$1::text || $2::text || $1::text", "aba", ["a", "b"]],
];

describe("results and values are the same on every driver", {
  skip: postgres.skip,
}, () => {
  const drivers = new Map<string, TestDriver>();
  let pglite: PGlite;

  before(() => {
    for (const kind of DRIVERS) {
      drivers.set(
        kind.name,
        kind.create({ url: postgres.url, connections: 1, timeoutMs: 10_000 }),
      );
    }
    pglite = new PGlite();
    const driver = pgliteDriver({ pglite, timeoutMs: 30_000 });
    drivers.set("pglite", {
      driver,
      close: async () => await driver[Symbol.asyncDispose](),
    });
  });

  after(async () => {
    for (const { close } of drivers.values()) await close();
    await pglite.close();
  });

  for (const name of [...DRIVERS.map((kind) => kind.name), "pglite"]) {
    const driver = (): SqlDriver => drivers.get(name)!.driver;

    test(`${name}: each column is what the contract says, alone and in a transaction, the first and the second time`, async () => {
      for (const [sql, expected, values] of COLUMNS) {
        const text = `select ${sql} as "value"`;
        const rows = [
          ...await driver().query(text, values),
          ...await driver().query(text, values),
        ];
        const inside = await driver().transaction((session) => session.query(text, values));
        for (const row of [...rows, ...inside]) {
          assert.deepEqual(
            plain(row),
            { value: plain(expected) },
            `${sql} with ${String(values)}`,
          );
        }
      }
    });

    test(`${name}: rows are plain objects in a plain array, whatever the columns are called`, async () => {
      const rows = await driver().query(
        `select n, 'x' as "Some Name" from generate_series(1, 3) n`,
      );
      assert.deepEqual(rows, [1, 2, 3].map((n) => ({ n, "Some Name": "x" })));
      assert.equal(Object.getPrototypeOf(rows), Array.prototype);
      assert.deepEqual(Object.keys(rows), ["0", "1", "2"]);
      assert.deepEqual(await driver().query("select 1 where false"), []);
    });

    test(`${name}: an array of a type of the application stays text, before and after the client learns about it`, async () => {
      const type = uniqueName("mood");
      await driver().query(`create type ${type} as enum ('happy', 'sad')`);
      try {
        const [row] = await driver().query(
          `select $1::${type} as one, array['happy','sad']::${type}[] as many`,
          ["sad"],
        );
        assert.deepEqual(row, { one: "sad", many: "{happy,sad}" });
      } finally {
        await driver().query(`drop type ${type}`);
      }
    });

    test(`${name}: the tag inserts objects and reads them back`, async () => {
      const table = uniqueName("tagged");
      const sql = sqlTag(driver());
      const at = new Date("2026-11-23T10:34:56.789Z");
      await sql`create table ${sql(table)} (id int8, name text, at timestamptz, tags text[], raw bytea)`;
      try {
        const rows = [
          {
            id: 1n,
            name: "a",
            at,
            tags: ["x", null],
            raw: new Uint8Array([1]),
          },
          { id: 2n, name: undefined, at: null, tags: [], raw: null },
        ];
        const inserted = await sql`insert into ${sql(table)} ${sql(rows)} returning *`;
        assert.deepEqual(
          plain(inserted),
          plain([
            {
              id: "1",
              name: "a",
              at,
              tags: ["x", null],
              raw: new Uint8Array([1]),
            },
            { id: "2", name: null, at: null, tags: [], raw: null },
          ]),
        );
        assert.deepEqual(
          await sql`select name from ${sql(table)} where id = any(${[1n, 7n]})`,
          [{ name: "a" }],
        );
      } finally {
        await sql`drop table ${sql(table)}`;
      }
    });

    test(`${name}: a statement that returns no rows gives an empty array`, async () => {
      await driver().transaction(async (session) => {
        assert.deepEqual(
          await session.query("create temp table gone (a int) on commit drop"),
          [],
        );
        assert.deepEqual(
          await session.query("insert into gone values ($1), ($2)", [1, 2]),
          [],
        );
        assert.deepEqual(
          await session.query("update gone set a = 3 where a = 1 returning a"),
          [{ a: 3 }],
        );
      });
    });

    test(`${name}: a value that does not fit is refused without being repeated, and the driver goes on`, async () => {
      const refused = (error: unknown): boolean => {
        assert.ok(isMillstreamError(error, "REJECTED"), String(error));
        assert.match(String(error.details.sqlState), /^22/);
        return !error.message.includes("sesame");
      };
      await assert.rejects(
        driver().query("select $1::int4", ["sesame"]),
        refused,
      );
      await assert.rejects(
        driver().query("select $1", [{ sesame: 1 } as never]),
        (error: unknown) => isMillstreamError(error, "INVALID_ARGUMENT"),
      );
      assert.deepEqual(await driver().query("select 1 as n"), [{ n: 1 }]);
    });

    test(`${name}: two statements in one query are refused, and neither runs`, async () => {
      const table = uniqueName("twice");
      await assert.rejects(
        driver().query(`create table ${table} (a int); drop table ${table}`),
        (error: unknown) =>
          isMillstreamError(error, "REJECTED") &&
          error.details.sqlState === "42601",
      );
      assert.deepEqual(
        await driver().query("select to_regclass($1) as found", [table]),
        [{ found: null }],
      );
    });

    test(`${name}: a script runs all its statements, or none if one fails, and leaves no transaction open`, async () => {
      const table = uniqueName("scripted");
      await driver().script(`create table ${table} (a int); insert into ${table} values (1)`);
      try {
        await driver().script(`begin; insert into ${table} values (2)`);
        assert.deepEqual(await driver().query(`select a from ${table}`), [{
          a: 1,
        }]);
        const failing = driver().script(
          `insert into ${table} values (3); select 1 / 0`,
        );
        await assert.rejects(
          failing,
          (error: unknown) => isMillstreamError(error, "REJECTED"),
        );
        assert.deepEqual(await driver().query(`select a from ${table}`), [{
          a: 1,
        }]);
      } finally {
        await driver().query(`drop table ${table}`);
      }
    });
  }
});

/** Bytes as an array: what a class of its own they are is none of the contract. */
function plain(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: [...value] };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null || value instanceof Date) {
    return value;
  }
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [key, plain(item)]),
  );
}
