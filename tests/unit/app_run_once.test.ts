import assert from "node:assert/strict";
import { test } from "node:test";
import { runOnce, type RunOnceOptions } from "../../src/idempotency/idempotent.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { IdempotencyKeys } from "../../src/ports/idempotency.ts";
import { virtualClock } from "../../src/testing/mod.ts";
import { gate } from "./messaging_fixture.ts";

function setting(): {
  clock: ReturnType<typeof virtualClock>;
  keys: IdempotencyKeys;
  options: RunOnceOptions;
} {
  const clock = virtualClock();
  return {
    clock,
    keys: memoryStore({ clock }).idempotency,
    options: { key: "k", fingerprint: "f", clock, waitMs: 60_000 },
  };
}

test("of callers at the same time one runs the operation, and all get its result", async () => {
  const { clock, keys, options } = setting();
  let runs = 0;
  const done = gate<string>();
  const calls = Array.from({ length: 5 }, () => runOnce(keys, options, () => (runs++, done.passed)));
  await clock.advance(45_000); // longer than the lease, which is renewed
  done.open("result");
  await clock.advance(100);
  const results = await Promise.all(calls);
  assert.equal(runs, 1);
  assert.ok(results.every(({ result }) => result === "result"));
  assert.deepEqual(results.filter(({ replayed }) => !replayed).length, 1);
  assert.deepEqual(await runOnce(keys, options, () => assert.fail("ran again")), {
    result: "result",
    replayed: true,
  });
  assert.equal(clock.pending, 0);
});

test("a caller who does not wait is told that it is in progress", async () => {
  const { keys, options } = setting();
  void runOnce(keys, options, () => new Promise(() => {}));
  await assert.rejects(runOnce(keys, { ...options, waitMs: 0 }, () => Promise.resolve("")), {
    code: "IDEMPOTENCY_IN_PROGRESS",
    retryable: true,
  });
});

test("the key with another payload is refused, running or done", async () => {
  const { clock, keys, options } = setting();
  const done = gate<string>();
  const other = { ...options, fingerprint: "g" };
  const first = runOnce(keys, options, () => done.passed);
  await assert.rejects(runOnce(keys, other, () => Promise.resolve("")), { code: "IDEMPOTENCY_KEY_REUSED" });
  done.open("x");
  await first;
  await assert.rejects(runOnce(keys, other, () => Promise.resolve("")), { code: "IDEMPOTENCY_KEY_REUSED" });
  await clock.advance(86_400_001);
  assert.equal((await runOnce(keys, other, () => Promise.resolve("new"))).result, "new");
});

test("an operation that fails keeps nothing: who waits runs it next", async () => {
  const { clock, keys, options } = setting();
  const failing = gate();
  const first = runOnce(keys, options, async () => {
    await failing.passed;
    throw new Error("no");
  });
  const second = runOnce(keys, options, () => Promise.resolve("second"));
  failing.open();
  await assert.rejects(first, { message: "no" });
  await clock.advance(100);
  assert.deepEqual(await second, { result: "second", replayed: false });
});

test("a holder that was paused past its lease: another runs, and the first one's result is refused", async () => {
  // Interleaving: the first one's renewals hang and its lease runs out; the second one runs; the first one finishes.
  const { clock, keys, options } = setting();
  const paused = gate<string>();
  let renewals = 0;
  const stuck: IdempotencyKeys = {
    ...keys,
    renew: (...args) => ++renewals === 1 ? new Promise(() => {}) : keys.renew(...args),
  };
  const first = runOnce(stuck, { ...options, leaseMs: 3_000 }, () => paused.passed);
  await clock.advance(10);
  const second = runOnce(keys, options, () => Promise.resolve("second"));
  await clock.advance(5_000);
  assert.deepEqual(await second, { result: "second", replayed: false });
  paused.open("first");
  await assert.rejects(first, { code: "LEASE_LOST" });
  assert.equal((await runOnce(keys, options, () => assert.fail("ran again"))).result, "second");
});

test("who lost the key hears of it through the signal, and is told so whatever the operation throws", async () => {
  const { clock, keys, options } = setting();
  const lost: IdempotencyKeys = { ...keys, renew: () => Promise.resolve(false) };
  const call = runOnce(
    lost,
    { ...options, leaseMs: 3_000 },
    (signal) =>
      new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("stopped")))),
  );
  const refused = assert.rejects(call, { code: "LEASE_LOST" });
  await clock.advance(1_000);
  await refused;
});

test("a renewal under way at the end sets no further timer", async () => {
  const { clock, keys, options } = setting();
  const answer = gate<boolean>();
  const done = gate<string>();
  const call = runOnce({ ...keys, renew: () => answer.passed }, options, () => done.passed);
  await clock.advance(15_000);
  done.open("x");
  await call;
  answer.open(true);
  await clock.advance(0);
  assert.equal(clock.pending, 0);
});
