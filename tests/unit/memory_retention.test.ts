import assert from "node:assert/strict";
import { test } from "node:test";
import type { EncodedMessage } from "../../src/core/message.ts";
import { memoryBroker } from "../../src/memory/mod.ts";
import { virtualClock } from "../../src/testing/mod.ts";

const READ = { limit: 1_000, waitMs: 0 };

function messages(count: number, from = 1): readonly EncodedMessage[] {
  return Array.from({ length: count }, (_, n) => ({ id: `m${from + n}`, type: "t", body: "{}" }));
}

function ids(some: readonly EncodedMessage[]): readonly string[] {
  return some.map(({ id }) => id);
}

test("a topic keeps the last messages for late groups and readers, and tells readers about the gap", async () => {
  const broker = memoryBroker({ retention: 3 });
  await broker.publish("t", messages(2));
  const first = await broker.log!.read("t", "start", READ);
  await broker.publish("t", messages(5, 3));
  const after = await broker.log!.read("t", first.next, READ);
  assert.deepEqual([ids(after.entries), after.gap], [["m5", "m6", "m7"], true]);
  const start = await broker.log!.read("t", "start", READ);
  assert.deepEqual([ids(start.entries), start.gap], [["m5", "m6", "m7"], false]);
  const late = await broker.subscribe("t", "late");
  assert.deepEqual(ids(await late.pull(10, { waitMs: 0 })), ["m5", "m6", "m7"]);
  await broker[Symbol.asyncDispose]();
});

test("retention takes nothing from a group that has not read yet, however far it is behind", async () => {
  const broker = memoryBroker({ retention: 0 });
  const group = await broker.subscribe("t", "slow");
  for (let n = 0; n < 5_000; n += 100) await broker.publish("t", messages(100, n + 1));
  const all: string[] = [];
  for (
    let some = await group.pull(999, { waitMs: 0 });
    some.length > 0;
    some = await group.pull(999, { waitMs: 0 })
  ) {
    all.push(...ids(some));
    await group.ack(some);
  }
  assert.deepEqual(all, ids(messages(5_000)));
  await broker[Symbol.asyncDispose]();
});

test("the log stays right while thousands of messages pass through a small retention", async () => {
  const broker = memoryBroker({ retention: 10 });
  const seen: string[] = [];
  for (let n = 0, next = "start"; n < 6_000; n += 6) {
    await broker.publish("t", messages(6, n + 1));
    const page = await broker.log!.read("t", next, READ);
    assert.equal(page.gap, false);
    seen.push(...ids(page.entries));
    next = page.next;
  }
  assert.deepEqual(seen, ids(messages(6_000)));
  await broker[Symbol.asyncDispose]();
});

test("a position of an earlier life of the broker is a gap, one from the future an error", async () => {
  const earlier = memoryBroker({ clock: virtualClock(1_000) });
  await earlier.publish("t", messages(9));
  const { next } = await earlier.log!.read("t", "start", READ);
  await earlier[Symbol.asyncDispose]();
  const later = memoryBroker({ clock: virtualClock(2_000) });
  await later.publish("t", messages(1));
  const page = await later.log!.read("t", next, READ);
  assert.deepEqual([ids(page.entries), page.gap], [["m1"], true]);
  const future = page.next.replace(/\d+$/, "2");
  await assert.rejects(later.log!.read("t", future, READ), { code: "INVALID_ARGUMENT" });
  await later[Symbol.asyncDispose]();
});

test("a publish that would exceed the capacity of a group is refused as a whole, and goes through when there is room", async () => {
  const broker = memoryBroker({ capacity: 5 });
  const group = await broker.subscribe("t", "slow");
  await broker.publish("t", messages(4));
  await assert.rejects(broker.publish("t", messages(2, 5)), { code: "OVERLOADED", retryable: true });
  await broker.publish("t", messages(1, 5));
  await group.ack(await group.pull(2, { waitMs: 0 }));
  await broker.publish("t", messages(2, 6));
  assert.deepEqual(ids(await group.pull(10, { waitMs: 0 })), ["m3", "m4", "m5", "m6", "m7"]);
  await broker[Symbol.asyncDispose]();
});

test("delayed messages count towards the capacity", async () => {
  const clock = virtualClock();
  const broker = memoryBroker({ capacity: 2, clock });
  await broker.publish("t", messages(2), { delayMs: 1_000 });
  await assert.rejects(broker.publish("t", messages(1, 3)), { code: "OVERLOADED" });
  await broker[Symbol.asyncDispose]();
});

test("the last 10,000 ids of a topic are recognised, and no more memory is spent on older ones", async () => {
  const broker = memoryBroker({ retention: 0 });
  const group = await broker.subscribe("t", "g");
  const count = async (): Promise<number> => (await group.lag()).ready;
  await broker.publish("t", messages(10_001));
  await broker.publish("t", messages(10_000, 2));
  assert.equal(await count(), 10_001);
  await broker.publish("t", messages(1));
  assert.equal(await count(), 10_002);
  await broker[Symbol.asyncDispose]();
});

test("options out of range are refused", () => {
  assert.throws(() => memoryBroker({ retention: -1 }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => memoryBroker({ capacity: 0 }), { code: "INVALID_ARGUMENT" });
});
