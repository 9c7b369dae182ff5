import assert from "node:assert/strict";
import { test } from "node:test";
import { brokerMemory } from "../../src/memory/broker.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Broker, Delivery } from "../../src/ports/broker.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";
import { gate, Keyed, patched, Ping, until, type World, world } from "./messaging_fixture.ts";

/** A process on a broker that outlives it. */
interface Process extends World {
  /** As kill -9: nothing it holds is handed back, and nothing it still does reaches the broker. */
  kill(): void;
}

/** Several processes, one after another, on one broker. */
function machine(clock: VirtualClock = virtualClock()): { readonly clock: VirtualClock; boot(): Process } {
  const memory = brokerMemory({ clock });
  return {
    clock,
    boot() {
      const connection = memory.connect();
      let isDead = false;
      const never = new Promise<never>(() => {});
      const cut = (broker: Broker): Broker =>
        patched(broker, (original) => ({
          pull: (...call) => isDead ? never : original.pull(...call),
          ack: (...call) => isDead ? never : original.ack(...call),
          release: (...call) => isDead ? never : original.release(...call),
          retry: (...call) => isDead ? never : original.retry(...call),
          deadLetter: (...call) => isDead ? never : original.deadLetter(...call),
          extend: (...call) => isDead ? never : original.extend(...call),
          begin: (...call) => isDead ? never : original.begin(...call),
        }));
      const process = world({ store: memoryStore({ clock }), broker: () => cut(connection) }, clock);
      return { ...process, kill: () => isDead = true };
    },
  };
}

test("a message that kills every process is a dead letter after three more deaths, and its neighbours never", async () => {
  const { clock, boot } = machine();
  const handled: number[] = [];
  let deaths = 0;
  let last: Process | undefined;
  const publisher = boot();
  for (let n = 0; n < 20; n++) await publisher.app.publish(Ping, { n });
  while (handled.length < 19 && deaths < 20) {
    const process = boot();
    last = process;
    let isDead = false;
    process.app.on(Ping, { group: "g", concurrency: 8, leaseMs: 3_000 }, async ({ data }) => {
      if (isDead) return await new Promise(() => {});
      if (data.n === 5) {
        isDead = true;
        deaths++;
        process.kill();
        return await new Promise(() => {});
      }
      await new Promise<void>((resolve) => clock.after(5, resolve));
      if (!isDead) handled.push(data.n);
    });
    await process.app.start();
    await until(clock, () => isDead || handled.length === 19, 100);
    await clock.advance(5_000); // its leases run out
  }
  const letters = await publisher.app.broker.deadLetters.list({}, { limit: 10 });
  assert.deepEqual(letters.map(({ failure, attempts }) => [failure.error, attempts]), [["CRASHED", 1]]);
  assert.equal(JSON.parse(letters[0]!.body).data.n, 5);
  assert.deepEqual([deaths, [...new Set(handled)].length], [4, 19]);
  assert.equal(last!.of("dead-lettered").length, 1);
});

test("suspects begin one at a time, the second time alone, while fresh messages go on beside the first", async () => {
  const clock = virtualClock();
  const memory = brokerMemory({ clock });
  const publisher = memory.connect();
  const dying = await publisher.subscribe("ping", "g", { leaseMs: 1_000 });
  const { app } = world({ broker: () => memory.connect() }, clock);
  const running = new Set<number>();
  const beside: string[] = [];
  app.on(Ping, { group: "g", concurrency: 4 }, async ({ data }) => {
    running.add(data.n);
    beside.push([...running].sort().join("+"));
    await new Promise<void>((resolve) => clock.after(data.n < 7 ? 100 : 1_000, resolve));
    running.delete(data.n);
  });
  for (const n of [1, 2, 3]) await app.publish(Ping, { n });
  const held = await dying.pull(3, { waitMs: 0 });
  await dying.begin(held[2]!); // the third one was begun when its process died
  await clock.advance(1_000);
  for (const n of [7, 8]) await app.publish(Ping, { n });
  await app.start();
  await until(clock, async () => (await dying.lag()).ready + (await dying.lag()).inFlight === 0);
  assert.deepEqual(beside.filter((all) => all.replace(/[78+]/g, "").length > 1), []);
  assert.ok(beside.includes("1+7"), `beside each other: ${beside}`);
  assert.equal(beside.at(-1), "3");
  await app.close();
});

test("a fresh message costs no call to count it, one that was left to its lease costs one", async () => {
  const clock = virtualClock();
  const memory = brokerMemory({ clock });
  const counted: string[] = [];
  const other = await memory.connect().subscribe("ping", "g", { leaseMs: 1_000 });
  const { app, of } = world({
    broker: () =>
      patched(memory.connect(), (original) => ({
        begin: (delivery) => {
          counted.push(delivery.id);
          return original.begin(delivery);
        },
      })),
  }, clock);
  app.on(Ping, { group: "g" }, () => {});
  const left = await app.publish(Ping, { n: 1 });
  await other.pull(1, { waitMs: 0 });
  await clock.advance(1_000);
  for (let n = 2; n < 10; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => of("handled").length === 9);
  assert.deepEqual(counted, [left.id]);
  await app.close();
});

for (
  const [what, begin, lost] of [
    ["is lost while it is counted", () => Promise.resolve(undefined), 1],
    ["cannot be counted", () => Promise.reject(new Error("away")), 0],
  ] as const
) {
  test(`a suspect that ${what} is not handled here, and its followers are`, async () => {
    const clock = virtualClock();
    const memory = brokerMemory({ clock });
    const other = await memory.connect().subscribe("ping", "g", { leaseMs: 1_000 });
    const released: Delivery[] = [];
    let first = true;
    const { app, of } = world({
      broker: () =>
        patched(memory.connect(), (original) => ({
          begin(delivery) {
            if (!first) return original.begin(delivery);
            first = false;
            return begin();
          },
          release(deliveries) {
            released.push(...deliveries);
            return original.release(deliveries);
          },
        })),
    }, clock);
    const seen: number[] = [];
    app.on(Ping, { group: "g" }, ({ data }) => void seen.push(data.n));
    for (const n of [1, 2]) await app.publish(Ping, { n });
    await other.pull(2, { waitMs: 0 });
    await clock.advance(1_000);
    await app.start();
    await until(clock, () => seen.includes(2));
    assert.equal(of("lease-lost").length, lost);
    assert.equal(released.length, 1 - lost);
    await app.close();
  });
}

test("closing hands back suspects that wait, and waits for the one that runs", async () => {
  const clock = virtualClock();
  const memory = brokerMemory({ clock });
  const other = await memory.connect().subscribe("ping", "g", { leaseMs: 1_000 });
  const { app } = world({ broker: () => memory.connect() }, clock);
  const hold = gate();
  const seen: number[] = [];
  app.on(Keyed, { group: "g" }, async ({ data }) => {
    seen.push(data.n);
    await hold.passed;
  });
  for (const n of [1, 2, 3]) await app.publish(Keyed, { n, key: `k${n}` });
  await other.pull(3, { waitMs: 0 });
  await clock.advance(1_000);
  await app.start();
  await clock.advance(10);
  const closed = app.close();
  await clock.advance(10);
  const back = await other.pull(5, { waitMs: 0 });
  assert.deepEqual([seen, back.map(({ redelivered }) => redelivered)], [[1], [false, false]]);
  hold.open();
  await closed;
  await clock.advance(100);
  assert.equal((await other.lag()).inFlight, 2);
});
