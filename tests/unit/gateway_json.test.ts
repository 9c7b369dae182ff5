import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { decodeMessage, encodeMessage } from "../../src/core/codec.ts";
import { type ErrorCode, isMillstreamError } from "../../src/core/errors.ts";
import { splitArray } from "../../src/core/json.ts";

function fails(code: ErrorCode): (error: unknown) => boolean {
  return (error) => isMillstreamError(error, code);
}

describe("splitArray", () => {
  test("gives the text of each element as it stands, brackets and quotes inside strings included", () => {
    const text = ' [1, {"a" : [1.0, "]"]} ,"\\"],[", [] ,null] \n';
    assert.deepEqual(splitArray(text, 10), ["1", ' {"a" : [1.0, "]"]} ', '"\\"],["', " [] ", "null"]);
  });

  test("an empty array has no elements", () => {
    assert.deepEqual(splitArray("[]", 1), []);
    assert.deepEqual(splitArray(" [ \n ] ", 1), []);
  });

  test("an element that is missing comes out empty, which no parser accepts", () => {
    assert.deepEqual(splitArray("[1,]", 10), ["1", ""]);
    assert.deepEqual(splitArray("[,]", 10), ["", ""]);
  });

  for (
    const text of [
      "",
      "{}",
      "1",
      '"[1]"',
      "[",
      "[1",
      "[1}",
      "]",
      "[[",
      '["',
      "[1]x",
      "[1] [2]",
      "[]]",
    ]
  ) {
    test(`refuses ${JSON.stringify(text)}, which is not one array`, () => {
      assert.throws(() => splitArray(text, 10), fails("MALFORMED_MESSAGE"));
    });
  }

  test("stops at the limit instead of cutting up the rest", () => {
    assert.equal(splitArray(`[${"1,".repeat(99)}1]`, 100).length, 100);
    assert.throws(
      () => splitArray(`[${"1,".repeat(100)}1]`, 100),
      fails("PAYLOAD_TOO_LARGE"),
    );
  });

  test("takes any depth without overflowing the stack", () => {
    const deep = "[".repeat(200_000) + "]".repeat(200_000);
    assert.equal(splitArray(deep, 1).length, 1);
  });
});

describe("depth of a message", () => {
  const message = (levels: number) => {
    let data: unknown = 1;
    for (let level = 0; level < levels; level++) data = [data];
    const time = "2026-01-01T00:00:00Z";
    return {
      id: "1",
      source: "/",
      type: "t",
      time,
      schemaVersion: 1,
      headers: {},
      data,
    };
  };

  test("data at the limit of 64 levels is accepted by the writer and by the reader", () => {
    const { body } = encodeMessage(message(64));
    assert.deepEqual(decodeMessage(body).data, message(64).data);
  });

  test("data of 65 levels is refused by both", () => {
    assert.throws(() => encodeMessage(message(65)), fails("PAYLOAD_TOO_DEEP"));
    const body = encodeMessage(message(64)).body.replace('"data":[', '"data":[[').replace("]}", "]]}");
    assert.throws(() => decodeMessage(body), fails("PAYLOAD_TOO_DEEP"));
  });
});
