import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../../src/core/clock.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Delivery } from "../../src/ports/broker.ts";
import { virtualClock } from "../../src/testing/mod.ts";
import {
  gate,
  patched,
  Ping,
  Pong,
  type SubscriptionPatch,
  unmarked,
  until,
  world,
} from "./messaging_fixture.ts";

test("what a handler publishes is not sent if it throws, and sent once when it succeeds", async () => {
  const { app, clock } = world();
  const pongs: string[] = [];
  app.on(Ping, { group: "g", retry: { baseMs: 1 } }, async ({ data }, ctx) => {
    await ctx.publish(Pong, { n: data.n });
    if (ctx.attempt === 1) throw new Error("after the publish");
  });
  app.on(Pong, { group: "g" }, ({ id, causationId }) => void pongs.push(`${id} ${causationId}`));
  await app.start();
  const { id } = await app.publish(Ping, { n: 1 });
  await until(clock, () => pongs.length > 0);
  await clock.advance(5_000);
  assert.equal(pongs.length, 1);
  assert.ok(pongs[0]!.endsWith(` ${id}`));
  await app.close();
});

test("what is appended and published commits together, or not at all", async () => {
  const { app, clock, store, of } = world();
  app.on(Ping, { group: "g", retry: { attempts: 1 } }, async ({ data }, ctx) => {
    await ctx.append("s-1", [Pong({ n: data.n })]);
    await ctx.publish(Pong, { n: data.n + 10 });
    if (data.n === 1) throw new Error("no");
    if (data.n === 2) await ctx.publish(Pong, { n: "two" as never }).catch(() => {}); // swallowed: it must not go through
  });
  const seen: number[] = [];
  app.on(Pong, { group: "g" }, ({ data }) => void seen.push(data.n));
  await app.start();
  for (const n of [1, 2, 3]) await app.publish(Ping, { n });
  await until(clock, () => seen.length === 2 && of("dead-lettered").length === 2);
  const stream = await store.events.readStream("s-1");
  assert.equal(stream.length, 1);
  assert.deepEqual(seen.sort(), [13, 3]);
  await app.close();
});

test("effects that the handler did not wait for are part of it, and none are possible after its end", async () => {
  const { app, clock, store, of } = world();
  const late: unknown[] = [];
  let afterwards = (): Promise<unknown> => Promise.resolve();
  app.on(Ping, { group: "g" }, (_, ctx) => {
    void ctx.append("s-1", [Pong({ n: 1 })]);
    void ctx.publish(Pong, { n: 2 });
    afterwards = () =>
      Promise.all([
        ctx.append("s-2", [Pong({ n: 3 })]).catch((error) => late.push(error.code)),
        ctx.publish(Pong, { n: 4 }).catch((error) => late.push(error.code)),
        ctx.sql`select 1`.then(() => {}, (error) => late.push(error.code)),
      ]);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await until(clock, () => of("handled").length === 1);
  await afterwards();
  assert.deepEqual([
    (await store.events.readStream("s-1")).length,
    (await store.events.readStream("s-2")).length,
  ], [1, 0]);
  assert.deepEqual(late, ["CLOSED", "CLOSED", "CLOSED"]);
  assert.equal(of("handled").length, 1);
  await app.close();
});

for (const marked of [true, false]) {
  test(`a message delivered again ${marked ? "" : "and not marked as such "}has its effects once`, async () => {
    // Interleaving: effects committed, acknowledgement lost, lease over, delivered again.
    let failing = true;
    const { app, clock, store, of } = world({
      broker: (store) =>
        patched(store.broker(), (original) => ({
          ack: (deliveries) =>
            failing ? (failing = false, Promise.reject(new Error("ack lost"))) : original.ack(deliveries),
          pull: async (...args) =>
            marked ? await original.pull(...args) : unmarked(await original.pull(...args)),
        })),
    });
    let runs = 0;
    app.on(Ping, { group: "g" }, async (_, ctx) => {
      runs++;
      await ctx.append("s-1", [Pong({ n: 1 })]);
    });
    await app.start();
    await app.publish(Ping, { n: 1 });
    await until(clock, () => of("duplicate").length > 0, 500);
    assert.equal((await store.events.readStream("s-1")).length, 1);
    assert.deepEqual([of("handled").length, of("duplicate").length, runs], [1, 1, marked ? 1 : 2]);
    assert.equal((await app.broker.deadLetters.list({}, { limit: 1 })).length, 0);
    await app.close();
  });
}

test("one message in two hands at the same time has its effects once", async () => {
  // Interleaving: both handlers run before either has written anything; the second one finds the first's note.
  const { app, clock, store, of } = world({
    broker: (store) =>
      patched(store.broker(), (original) => ({
        pull: async (...args) =>
          (await original.pull(...args)).flatMap((
            one,
          ): Delivery[] => [one, { ...one, token: `${one.token}x` }]),
      })),
  });
  const both = gate();
  let running = 0;
  app.on(Ping, { group: "g" }, async (_, ctx) => {
    if (++running === 2) both.open();
    await both.passed;
    await ctx.append("s-1", [Pong({ n: 1 })]);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await until(clock, () => of("handled").length + of("duplicate").length === 2);
  assert.equal(running, 2);
  assert.equal((await store.events.readStream("s-1")).length, 1);
  assert.deepEqual([of("handled").length, of("duplicate").length], [1, 1]);
  await app.close();
});

test("a handler that timed out and goes on commits nothing: its retry does", async () => {
  // Interleaving: try 1 times out, try 2 succeeds, try 1 wakes up and wants to write.
  const { app, clock, store, of } = world();
  const zombie = gate();
  const outcomes: string[] = [];
  app.on(Ping, { group: "g", timeoutMs: 100, retry: { baseMs: 1 } }, async (_, ctx) => {
    if (ctx.attempt === 1) {
      await zombie.passed;
      await ctx.append("zombie", [Pong({ n: 1 })]).then(
        () => outcomes.push("written"),
        (error) => outcomes.push(error.message),
      );
      await ctx.publish(Pong, { n: 1 });
    } else await ctx.append("retry", [Pong({ n: 2 })]);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await until(clock, () => of("handled").length === 1);
  zombie.open();
  await until(clock, () => outcomes.length > 0);
  const lengths = await Promise.all(
    ["zombie", "retry"].map(async (name) => (await store.events.readStream(name)).length),
  );
  assert.deepEqual([lengths, outcomes], [[0, 1], ["Handled before"]]);
  assert.equal((await store.outbox.pending(10)).length, 0);
  await app.close();
});

test("a handler that timed out before its retry began commits nothing either", async () => {
  // Interleaving: try 1 times out and writes while the message waits for its second try.
  const { app, clock, store, of } = world();
  let written = false;
  const zombie = gate();
  app.on(Ping, { group: "g", timeoutMs: 100, retry: { baseMs: 10_000 } }, async (_, ctx) => {
    if (ctx.attempt > 1) return void await ctx.append("retry", [Pong({ n: 2 })]);
    await zombie.passed;
    await ctx.append("zombie", [Pong({ n: 1 })]);
    written = true;
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(200);
  assert.equal(of("retried").length, 1);
  zombie.open();
  await until(clock, () => written, 0);
  assert.equal(of("handled").length, 0);
  await until(clock, () => of("handled").length === 1, 500);
  const lengths = await Promise.all(
    ["zombie", "retry"].map(async (name) => (await store.events.readStream(name)).length),
  );
  assert.deepEqual(lengths, [0, 1]);
  await app.close();
});

test("a lease lost while handling: the signal aborts, the transaction is refused, the other process's effect is the only one", async () => {
  // Interleaving: p1 handles and cannot extend; the lease runs out; p2 handles and commits; p1 goes on and wants to commit.
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const broker = store.broker();
  const paused = gate();
  const reasons: string[] = [];
  let stuck = true;
  let written = false;
  let pulls = 0;
  const patch: SubscriptionPatch = (original) => ({
    extend: (held) => stuck ? Promise.resolve([]) : original.extend(held),
    pull: async (max, options) => {
      if (pulls++ === 0) return await original.pull(max, options);
      await sleep(clock, options.waitMs, options.signal); // it takes nothing more
      return [];
    },
  });
  const p1 = world({ store, broker: () => patched(broker, patch) }, clock);
  const p2 = world({ store, broker: () => broker }, clock);
  p1.app.on(Ping, { group: "g", leaseMs: 3_000 }, async (_, ctx) => {
    ctx.signal.addEventListener("abort", () => reasons.push(ctx.signal.reason.code));
    await paused.passed;
    await ctx.append("p1", [Pong({ n: 1 })]).finally(() => written = true);
  });
  p2.app.on(
    Ping,
    { group: "g", leaseMs: 3_000 },
    async (_, ctx) => void await ctx.append("p2", [Pong({ n: 1 })]),
  );
  await p1.app.publish(Ping, { n: 1 });
  await p1.app.start();
  await clock.advance(100);
  await p2.app.start();
  await until(clock, () => p2.of("handled").length > 0, 100);
  assert.deepEqual(p2.of("handled").length, 1);
  stuck = false;
  await clock.advance(2_000);
  assert.deepEqual(reasons, ["LEASE_LOST"]);
  assert.ok(p1.of("lease-lost").length > 0);
  paused.open();
  await until(clock, () => written);
  const lengths = await Promise.all(
    ["p1", "p2"].map(async (name) => (await store.events.readStream(name)).length),
  );
  assert.deepEqual(lengths, [0, 1]);
  assert.equal(p1.of("retried").length + p1.of("dead-lettered").length, 0);
  await Promise.all([p1.app.close(), p2.app.close()]);
});
