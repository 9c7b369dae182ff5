import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryBroker, memoryStore } from "../../src/memory/mod.ts";
import { virtualClock } from "../../src/testing/mod.ts";

const MESSAGE = { id: "m1", type: "t", body: "{}" };
const FAILURE = { error: "Timeout", message: "late", at: 1 };

test("days of delays, retries and leases pass in a moment, and nothing happens before its time", async () => {
  const clock = virtualClock();
  const broker = memoryBroker({ clock });
  const group = await broker.subscribe("t", "g", { leaseMs: 3_600_000 });
  const now = { waitMs: 0 };
  await broker.publish("t", [MESSAGE], { delayMs: 86_400_000 });
  await clock.advance(86_399_999);
  assert.deepEqual(await group.pull(1, now), []);
  await clock.advance(1);
  const [first] = await group.pull(1, now);
  assert.equal(first?.attempt, 1);
  await group.retry(first!, 40 * 86_400_000, FAILURE); // longer than a timer of the runtime can wait
  await clock.advance(40 * 86_400_000 - 1);
  assert.deepEqual(await group.pull(1, now), []);
  await clock.advance(1);
  const [second] = await group.pull(1, now);
  assert.deepEqual([second?.attempt, second?.redelivered], [2, false]);
  await clock.advance(3_599_999);
  assert.deepEqual(await group.extend([second!]), []);
  await clock.advance(3_599_999);
  assert.deepEqual(await group.pull(1, now), []);
  await clock.advance(1);
  const [third] = await group.pull(1, now);
  assert.deepEqual([third?.attempt, third?.id], [2, "m1"]);
  assert.deepEqual(await group.ack([second!]), [second]);
  assert.deepEqual(await group.ack([third!]), []);
  await broker[Symbol.asyncDispose]();
});

test("a closed broker leaves no timer behind", async () => {
  const clock = virtualClock();
  const broker = memoryBroker({ clock });
  const group = await broker.subscribe("t", "g");
  await broker.publish("t", [MESSAGE, { ...MESSAGE, id: "m2" }]);
  await broker.publish("t", [{ ...MESSAGE, id: "m3" }], { delayMs: 5_000 });
  const [first] = await group.pull(2, { waitMs: 0 });
  await group.retry(first!, 1_000, FAILURE);
  const waiting = [
    group.pull(1, { waitMs: 9_000 }),
    broker.log!.read("t", "now", { limit: 1, waitMs: 9_000 }),
  ];
  await clock.advance(0);
  assert.ok(clock.pending >= 4);
  await broker[Symbol.asyncDispose]();
  assert.deepEqual(await Promise.allSettled(waiting).then((all) => all.map(({ status }) => status)), [
    "fulfilled",
    "rejected",
  ]);
  assert.equal(clock.pending, 0);
});

test("a closed store leaves no timer behind", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const broker = store.broker();
  const group = await broker.subscribe("t", "g");
  await broker.publish("t", [MESSAGE]);
  await group.pull(1, { waitMs: 0 });
  const reading = assert.rejects(store.events.readAll(0n, { limit: 1, waitMs: 9_000 }), { code: "CLOSED" });
  await clock.advance(10);
  await store[Symbol.asyncDispose]();
  await reading;
  assert.equal(clock.pending, 0);
});

test("a loop of pulls that always finds messages lets timers and I/O run", async () => {
  const broker = memoryBroker();
  const group = await broker.subscribe("t", "g");
  await broker.publish("t", [MESSAGE]);
  let fired = false;
  setTimeout(() => fired = true, 10);
  const end = performance.now() + 5_000;
  while (!fired && performance.now() < end) await group.release(await group.pull(1, { waitMs: 0 }));
  assert.ok(fired, "the timer did not fire while messages were pulled");
  await broker[Symbol.asyncDispose]();
});

test("an unsettled delivery comes again at once when its consumer leaves, not when its lease runs out", async () => {
  const clock = virtualClock();
  const broker = memoryBroker({ clock });
  const leaving = await broker.subscribe("t", "g");
  const staying = await broker.subscribe("t", "g");
  await broker.publish("t", [MESSAGE]);
  await leaving.pull(1, { waitMs: 0 });
  await leaving[Symbol.asyncDispose]();
  assert.equal((await staying.pull(1, { waitMs: 0 })).length, 1);
  await broker[Symbol.asyncDispose]();
});
