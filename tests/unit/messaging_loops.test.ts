import assert from "node:assert/strict";
import { test } from "node:test";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import { type LoopOptions, startLoop } from "../../src/messaging/loop.ts";
import { startRelay } from "../../src/messaging/relay.ts";
import type { Publisher } from "../../src/ports/broker.ts";
import type { Store } from "../../src/ports/store.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";
import { gate, patched, Ping, world } from "./messaging_fixture.ts";

function loopOptions(clock: VirtualClock, seen: Observation[] = []): LoopOptions {
  return { name: "test", clock, observer: (one) => void seen.push(one), periodMs: 1_000 };
}

test("a loop survives every error, says what failed, is unhealthy after three failures, and well after one success", async () => {
  const clock = virtualClock();
  const seen: Observation[] = [];
  let broken = true;
  let rounds = 0;
  const loop = startLoop(loopOptions(clock, seen), async () => {
    rounds++;
    await null;
    if (broken) throw rounds % 2 ? "a text" : new Error("down");
    return 100;
  });
  assert.equal(loop.health().healthy, true);
  await clock.advance(20_000);
  assert.ok(rounds > 15, `${rounds} rounds: a failure pauses for a period at most`);
  assert.equal(loop.health().healthy, false);
  assert.ok(loop.health().error);
  assert.ok(seen.every((one) => one.kind === "loop-failed" && one.error instanceof Error));
  broken = false;
  await clock.advance(1_100);
  assert.deepEqual([loop.health().healthy, loop.health().error], [true, undefined]);
  await loop.stop();
  await loop.stop();
  assert.equal(clock.pending, 0);
});

test("a loop whose round hangs is unhealthy after three periods, unless it beats", async () => {
  const clock = virtualClock();
  const hanging = startLoop(loopOptions(clock), () => new Promise(() => {}));
  const beating = startLoop(loopOptions(clock), async (signal, beat) => {
    while (!signal.aborted) {
      await new Promise<void>((resolve) => clock.after(900, resolve));
      beat();
    }
    return 0;
  });
  await clock.advance(3_000);
  assert.deepEqual([hanging.health().healthy, beating.health().healthy], [true, true]);
  await clock.advance(1);
  assert.deepEqual([hanging.health().healthy, beating.health().healthy], [false, true]);
  const stopped = beating.stop();
  await clock.advance(900);
  await stopped;
});

test("news ends a rest at once, also if it came during the round, but never the pause after a failure", async () => {
  const clock = virtualClock();
  let rounds = 0;
  let fails = false;
  const loop = startLoop(loopOptions(clock), async () => {
    rounds++;
    await null;
    if (fails) throw new Error("down");
    if (rounds === 2) loop.wake();
    return 60_000;
  });
  await clock.advance(0);
  assert.equal(rounds, 1);
  loop.wake();
  await clock.advance(0);
  assert.equal(rounds, 3);
  fails = true;
  loop.wake();
  await clock.advance(0);
  assert.equal(rounds, 4);
  for (let n = 0; n < 50; n++) {
    loop.wake();
    await clock.advance(0);
  }
  assert.equal(rounds, 4);
  await loop.stop();
});

test("errors of the broker do not stop a consumer: it turns unhealthy, and recovers by itself", async () => {
  let down = true;
  const failing = <T>(call: () => Promise<T>): Promise<T> =>
    down ? Promise.reject(new Error("broker down")) : call();
  const { app, clock, of } = world({
    broker: (store) => {
      const broker = store.broker();
      return {
        ...patched(broker, (original) => ({
          pull: (...args) => failing(() => original.pull(...args)),
          ack: (...args) => failing(() => original.ack(...args)),
          extend: (...args) => failing(() => original.extend(...args)),
        })),
      };
    },
  });
  const seen: number[] = [];
  app.on(Ping, { group: "g" }, async ({ data }, ctx) => {
    await ctx.publish(Ping, { n: -1 }, { id: "other" }).catch(() => {});
    seen.push(data.n);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(20_000);
  assert.deepEqual([seen.length, (await app.health()).ready], [0, false]);
  assert.ok(of("loop-failed").some(({ loop }) => loop === "consumer ping/g"));
  down = false;
  await clock.advance(30_000);
  assert.deepEqual([seen.includes(1), (await app.health()).ready], [true, true]);
  down = true; // acknowledgements fail now: the message comes again and is a duplicate
  await app.publish(Ping, { n: 2 });
  await clock.advance(20_000);
  down = false;
  await clock.advance(60_000);
  assert.equal(seen.filter((n) => n === 2).length, 1);
  await app.close();
});

function relayWorld(): { clock: VirtualClock; store: Store; sent: string[]; publisher: Publisher } {
  const clock = virtualClock();
  const sent: string[] = [];
  return {
    clock,
    store: memoryStore({ clock }),
    sent,
    publisher: {
      publish: (
        topic,
        messages,
      ) => (sent.push(...messages.map(({ id }) => `${topic} ${id}`)), Promise.resolve()),
    },
  };
}

function messages(...names: string[]): { topic: string; id: string; type: string; body: string }[] {
  return names.map((name) => ({ topic: name[0]!, id: name, type: "t", body: "{}" }));
}

test("the relay sends in the order of the outbox, each topic in its own order", async () => {
  const { clock, store, sent, publisher } = relayWorld();
  await store.outbox.add(messages("a1", "a2", "b1"));
  await store.outbox.add(messages("a3", "b2"));
  const relay = startRelay({ store, publisher, clock, observer: () => {}, random: () => 1, owner: "p1" });
  await clock.advance(10);
  assert.deepEqual(sent, ["a a1", "a a2", "a a3", "b b1", "b b2"]);
  await clock.advance(10_000);
  assert.equal(sent.length, 5);
  await relay.stop();
});

test("a relay that dies between the publish and its note: the next one sends again, under the same ids", async () => {
  const { clock, store, sent, publisher } = relayWorld();
  await store.outbox.add(messages("a1", "a2"));
  const dying: Store = { ...store, outbox: { ...store.outbox, markSent: () => new Promise(() => {}) } };
  startRelay({ store: dying, publisher, clock, observer: () => {}, random: () => 1, owner: "p1" });
  await clock.advance(100);
  assert.deepEqual(sent, ["a a1", "a a2"]);
  const next = startRelay({ store, publisher, clock, observer: () => {}, random: () => 1, owner: "p2" });
  await clock.advance(9_000);
  assert.equal(sent.length, 2, "not before the lease has run out");
  await clock.advance(3_000);
  assert.deepEqual(sent, ["a a1", "a a2", "a a1", "a a2"]);
  assert.equal((await store.outbox.pending(10)).length, 0);
  await next.stop();
});

test("a leader paused in its publish: the other sends everything, and the paused one marks nothing", async () => {
  // Interleaving: p1 publishes and is paused; its lease runs out; p2 takes over and cannot reach the broker; p1 wakes up.
  const { clock, store, sent, publisher } = relayWorld();
  const paused = gate();
  const seen: Observation[] = [];
  await store.outbox.add(messages("a1"));
  let waiting = true;
  const slow: Publisher = {
    publish: () => waiting ? paused.passed : Promise.reject(new Error("not the leader")),
  };
  const p1 = startRelay({
    store,
    publisher: slow,
    clock,
    observer: (one) => void seen.push(one),
    random: () => 1,
    owner: "p1",
  });
  await clock.advance(100);
  let reachable = false;
  const p2 = startRelay({
    store,
    publisher: {
      publish: (...args) => reachable ? publisher.publish(...args) : Promise.reject(new Error("down")),
    },
    clock,
    observer: () => {},
    random: () => 1,
    owner: "p2",
  });
  await clock.advance(12_000);
  waiting = false;
  paused.open();
  await clock.advance(5_000);
  assert.equal((await store.outbox.pending(10)).length, 1, "still to be sent");
  assert.ok(
    seen.some((one) => one.kind === "loop-failed" && (one.error as { code?: string }).code === "LEASE_LOST"),
  );
  assert.ok(!seen.some((one) => one.kind === "relayed"));
  reachable = true;
  await clock.advance(10_000);
  assert.deepEqual([sent, (await store.outbox.pending(10)).length], [["a a1"], 0]);
  await Promise.all([p1.stop(), p2.stop()]);
});

test("a topic that fails holds back itself only, and the others are not sent again with it", async () => {
  const { clock, store, sent, publisher } = relayWorld();
  await store.outbox.add(messages("a1", "b1", "a2", "c1"));
  let refused = true;
  const relay = startRelay({
    store,
    publisher: {
      publish: (topic, ...rest) =>
        refused && rest[0][0]!.id === "a1"
          ? Promise.reject(new Error("no such topic"))
          : publisher.publish(topic, ...rest),
    },
    clock,
    observer: () => {},
    random: () => 1,
    owner: "p1",
  });
  await clock.advance(60_000);
  assert.deepEqual(sent, ["b b1", "c c1"]);
  assert.equal(relay.health().healthy, false);
  refused = false;
  await clock.advance(10_000);
  assert.deepEqual(sent, ["b b1", "c c1", "a a1", "a a2"]);
  assert.equal(relay.health().healthy, true);
  await relay.stop();
});
