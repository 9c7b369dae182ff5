import assert from "node:assert/strict";
import { test } from "node:test";
import { MillstreamError } from "../../src/core/errors.ts";
import { deepEqual, equal, eventually, ok, rejects } from "../../src/testing/assert.ts";
import { virtualClock } from "../../src/testing/mod.ts";

test("ok, equal and deepEqual fail for what differs, and say how", () => {
  assert.throws(() => ok(0, "zero"), { message: "zero" });
  assert.throws(() => equal(1, 2, "count"), { message: "count: expected 2, got 1" });
  assert.throws(() => equal<unknown>(1, 1n, "count"), { message: "count: expected 1n, got 1" });
  assert.throws(() => deepEqual([1, { a: 1n }], [1, { a: 2n }], "list"), /differs at \.1\.a/);
  for (
    const [actual, expected] of [[[1], [1, 2]], [[], {}], [{ a: 1 }, {}], [{}, { a: 1 }], [null, {}], [
      "1",
      1,
    ], [[undefined, 1], [1]]]
  ) {
    assert.throws(() => deepEqual<unknown>(actual, expected, "value"), /^Error: value: expected/);
  }
});

test("ok, equal and deepEqual accept what is the same, and an undefined property as absent", () => {
  ok(1, "one");
  equal(NaN, NaN, "NaN");
  deepEqual<unknown>({ a: [1n, { b: "x" }], c: undefined }, { a: [1n, { b: "x" }] }, "value");
});

test("rejects wants a rejection with the code, and returns the error", async () => {
  const closed = new MillstreamError("CLOSED", "gone");
  assert.equal(await rejects(Promise.reject(closed), ["ABORTED", "CLOSED"], "call"), closed);
  await assert.rejects(rejects(Promise.resolve(7), "CLOSED", "call"), {
    message: "call: expected rejection with CLOSED, but it resolved with 7",
  });
  await assert.rejects(
    rejects(Promise.reject(closed), "ABORTED", "call"),
    /but it rejected with CLOSED: gone/,
  );
  await assert.rejects(rejects(Promise.reject(new Error("x")), "ABORTED", "call"), /but it rejected with x/);
});

test("eventually probes until there is an answer, and gives up at the deadline", async () => {
  const clock = virtualClock();
  let probes = 0;
  const found = eventually(clock, 1_000, "it comes", () => Promise.resolve(++probes === 4 && "here"));
  const never = assert.rejects(eventually(clock, 100, "it comes", () => Promise.resolve(undefined)), {
    message: "it comes: not within 100 ms",
  });
  await clock.advance(200);
  assert.equal(await found, "here");
  await never;
});
