import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryStore } from "../../src/memory/mod.ts";
import { virtualClock } from "../../src/testing/mod.ts";

function event(id: string): { id: string; type: string; body: string } {
  return { id, type: "t", body: "{}" };
}

test("a call on the store inside its own transaction is refused after the deadline, and says what to do", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const work = store.transaction(async ({ checkpoints }) => {
    await checkpoints.advance("inside", 0n, 1n);
    await store.checkpoints.load("inside");
  });
  const refused = assert.rejects(work, (error: Error & { code: string }) => {
    assert.equal(error.code, "DEADLINE_EXCEEDED");
    assert.match(
      error.message,
      /within 10000 ms.*Inside a transaction, call the ports given to it and not the store itself/,
    );
    return true;
  });
  await clock.advance(9_999);
  assert.equal(clock.pending, 1);
  await clock.advance(1);
  await refused;
  assert.equal(await store.checkpoints.load("inside"), 0n, "the transaction was rolled back");
  await store[Symbol.asyncDispose]();
});

test("calls and transactions have their turn in the order they came", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => release = resolve);
  const seen: bigint[] = [];
  const all = [
    store.transaction(async ({ checkpoints }) => {
      await held;
      await checkpoints.advance("c", 0n, 1n);
    }),
    store.checkpoints.advance("c", 1n, 2n),
    store.transaction(async ({ checkpoints }) => {
      seen.push(await checkpoints.load("c"));
      await checkpoints.advance("c", 2n, 3n);
    }),
    store.checkpoints.load("c").then((position) => void seen.push(position)),
  ];
  await clock.advance(1);
  assert.deepEqual(seen, []);
  release();
  await Promise.all(all);
  assert.deepEqual(seen, [2n, 3n]);
  assert.equal(clock.pending, 0, "no timer is left");
  await store[Symbol.asyncDispose]();
});

test("a call that gave up waiting has done nothing, and does not hold up those behind it", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock, queueMs: 100 });
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => release = resolve);
  const slow = store.transaction(() => held);
  const gaveUp = assert.rejects(store.checkpoints.advance("c", 0n, 7n), {
    code: "DEADLINE_EXCEEDED",
    retryable: true,
  });
  await clock.advance(60);
  const behind = store.checkpoints.load("c");
  await clock.advance(40);
  await gaveUp;
  release();
  await slow;
  assert.equal(await behind, 0n);
  await store[Symbol.asyncDispose]();
});

test("a refused call inside a transaction leaves the rest of it as it was", async () => {
  const store = memoryStore();
  await store.transaction(async ({ events }) => {
    await events.append([{ stream: "a", expected: 0, events: [event("1")] }]);
    const conflict = events.append([
      { stream: "b", expected: 0, events: [event("2"), event("3")] },
      { stream: "a", expected: 0, events: [event("4")] },
    ]);
    await assert.rejects(conflict, { code: "CONCURRENCY_CONFLICT" });
    await events.append([{ stream: "a", expected: 1, events: [event("5")] }]);
  });
  assert.deepEqual((await store.events.readStream("a")).map(({ id }) => id), ["1", "5"]);
  assert.deepEqual(await store.events.readStream("b"), []);
  await store[Symbol.asyncDispose]();
});

test("a transaction that reads with waitMs does not wait: nobody else can append meanwhile", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const page = await store.transaction(({ events }) => events.readAll(0n, { limit: 1, waitMs: 60_000 }));
  assert.deepEqual(page, { events: [], position: 0n });
  await store[Symbol.asyncDispose]();
});

test("the ports of a transaction are of no use when it has ended", async () => {
  const store = memoryStore();
  const ports = await store.transaction((inside) => Promise.resolve(inside));
  await assert.rejects(ports.checkpoints.advance("c", 0n, 1n), { code: "CLOSED" });
  const failed = await store.transaction((inside) => Promise.reject(inside)).catch((inside) => inside);
  await assert.rejects(failed.inbox.record("g", "m"), { code: "CLOSED" });
  await store[Symbol.asyncDispose]();
});

test("a store that is closed in the middle of a transaction rolls it back, and refuses those who wait", async () => {
  const store = memoryStore();
  let release: () => void = () => {};
  const held = new Promise<void>((resolve) => release = resolve);
  const open = assert.rejects(store.transaction(() => held), { code: "CLOSED" });
  const waiting = assert.rejects(store.ping(), { code: "CLOSED" });
  await store[Symbol.asyncDispose]();
  await waiting;
  release();
  await open;
});

test("an id that is in the stream with other neighbours is refused", async () => {
  const store = memoryStore();
  await store.events.append([{ stream: "s", expected: 0, events: [event("1"), event("2")] }]);
  const append = store.events.append([{ stream: "s", expected: "any", events: [event("2"), event("3")] }]);
  await assert.rejects(append, { code: "CONCURRENCY_CONFLICT" });
  assert.equal((await store.events.readStream("s")).length, 2);
  await store[Symbol.asyncDispose]();
});

test("positions have a gap where a transaction was rolled back, and readers see none of it", async () => {
  const store = memoryStore();
  await store.events.append([{ stream: "s", expected: 0, events: [event("1")] }]);
  await store.transaction(async ({ events }) => {
    await events.append([{ stream: "s", expected: 1, events: [event("2")] }]);
    throw new Error("rolled back on purpose");
  }).catch(() => {});
  await store.events.append([{ stream: "s", expected: 1, events: [event("3")] }]);
  const { events } = await store.events.readAll(0n, { limit: 10 });
  assert.deepEqual(events.map(({ id, version, position }) => [id, version, position]), [["1", 1, 1n], [
    "3",
    2,
    3n,
  ]]);
  await store[Symbol.asyncDispose]();
});

test("SQL is refused when it is awaited, and the error names the stores that have it", async () => {
  const store = memoryStore();
  const { sql } = store;
  const unsupported = { code: "UNSUPPORTED", message: /Postgres or PGlite/ };
  await assert.rejects(async () => await sql`select 1`, unsupported);
  await assert.rejects(
    async () => await sql`select ${sql`now()`} ${sql({ a: 1 })} from ${sql("t")}`,
    unsupported,
  );
  await assert.rejects(store.transaction(async (ports) => await ports.sql`select 1`), unsupported);
  await store[Symbol.asyncDispose]();
});
