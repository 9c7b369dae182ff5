import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { event } from "../../src/core/definition.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Loop } from "../../src/messaging/loop.ts";
import type { Store } from "../../src/ports/store.ts";
import { waitFor } from "../../src/sourcing/caught_up.ts";
import { type Projection, projection } from "../../src/sourcing/projection.ts";
import { startProjection } from "../../src/sourcing/projection_runner.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";
import { gate } from "./messaging_fixture.ts";

const Counted = event("counted", v.object({ n: v.number() }));
const Other = event("other", v.object({}));

function encoded(definition: { type: string }, data: unknown): { id: string; type: string; body: string } {
  const id = `e-${Math.random()}`;
  const { type } = definition;
  return { id, type, body: JSON.stringify({ specversion: "1.0", id, source: "s", type, data }) };
}

async function append(store: Store, ...numbers: number[]): Promise<bigint> {
  const events = numbers.map((n) => encoded(Counted, { n }));
  const [result] = await store.events.append([{ stream: "s", expected: "any", events }]);
  return result!.position;
}

function run(
  store: Store,
  clock: VirtualClock,
  projected: Projection,
  owner = "p1",
): Loop & { readonly seen: Observation[] } {
  const seen: Observation[] = [];
  const loop = startProjection({ store, clock, observer: (one) => void seen.push(one), owner }, projected);
  return Object.assign(loop, { seen });
}

test("a projection gets its events in order, in batches, and only its own types; its checkpoint passes the others", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const batches: number[][] = [];
  const counts = projection("counts", { on: [Counted], batchSize: 2 }, (events) => {
    batches.push(events.map(({ data }) => data.n));
  });
  await append(store, 1, 2, 3);
  const other = { stream: "o", expected: "any" as const, events: [encoded(Other, {})] };
  const [{ position }] = (await store.events.append([other])) as unknown as [{ position: bigint }];
  const loop = run(store, clock, counts);
  await clock.advance(100);
  assert.deepEqual(batches, [[1, 2], [3]]);
  assert.equal(await store.checkpoints.load("counts"), position);
  await append(store, 4);
  await clock.advance(10);
  assert.deepEqual(batches.at(-1), [4]);
  await loop.stop();
  assert.equal(clock.pending, 0);
});

test("a handler that throws moves nothing: the batch comes again, and what it did is rolled back", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  let tries = 0;
  const flaky = projection("flaky", { on: [Counted] }, () => {
    if (++tries < 3) throw new Error("read model down");
  });
  await append(store, 1);
  const loop = run(store, clock, flaky);
  await clock.advance(0);
  assert.deepEqual([tries, await store.checkpoints.load("flaky")], [1, 0n]);
  await clock.advance(5_000);
  assert.deepEqual([tries, await store.checkpoints.load("flaky")], [3, 1n]);
  assert.equal(loop.health().healthy, true);
  await loop.stop();
});

test("of two processes one projects; when it stops, the other goes on at once where it was", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const by: string[] = [];
  const as = (owner: string): Projection =>
    projection(
      "counts",
      { on: [Counted] },
      (events) => by.push(...events.map(({ data }) => `${owner} ${data.n}`)),
    );
  const p1 = run(store, clock, as("p1"), "p1");
  await clock.advance(10);
  const p2 = run(store, clock, as("p2"), "p2");
  await append(store, 1);
  await clock.advance(1_000);
  await p1.stop();
  await append(store, 2);
  await clock.advance(1_100);
  assert.deepEqual(by, ["p1 1", "p2 2"]);
  await p2.stop();
});

test("a leader paused between its read and its transaction is refused when it wakes up, and applies nothing", async () => {
  // Interleaving: p1 has read a batch and is paused; its lease runs out; p2 applies the batch; p1 begins its transaction.
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const paused = gate();
  const applied: string[] = [];
  const as = (owner: string): Projection =>
    projection(
      "counts",
      { on: [Counted] },
      (events) => applied.push(...events.map(({ data }) => `${owner} ${data.n}`)),
    );
  let reads = 0;
  const slow: Store = {
    ...store,
    events: {
      ...store.events,
      async readAll(...args) {
        const page = await store.events.readAll(...args);
        if (reads++ === 0) await paused.passed;
        return page;
      },
    },
  };
  await append(store, 1);
  const p1 = run(slow, clock, as("p1"), "p1");
  await clock.advance(10);
  const p2 = run(store, clock, as("p2"), "p2");
  await clock.advance(12_000);
  assert.deepEqual(applied, ["p2 1"]);
  paused.open();
  await clock.advance(100);
  assert.deepEqual(applied, ["p2 1"]);
  assert.ok(p1.seen.some(({ kind }) => kind === "lease-lost"));
  assert.equal(await store.checkpoints.load("counts"), 1n);
  await Promise.all([p1.stop(), p2.stop()]);
});

test("waiting for a position ends when all projections have reached it", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const counts = projection("counts", { on: [Counted] }, () => {});
  const slow = projection("slow", { on: [Counted] }, () => {});
  const position = await append(store, 1);
  const one = run(store, clock, counts);
  let done = false;
  const waiting = waitFor({ store, clock }, [counts, slow], position, { waitMs: 5_000 }).then(() =>
    done = true
  );
  await clock.advance(1_000);
  assert.equal(done, false);
  const two = run(store, clock, slow);
  await clock.advance(1_000);
  await waiting;
  await Promise.all([one.stop(), two.stop()]);
});

test("waiting too long ends as NOT_CAUGHT_UP with the names of those behind; a signal ends it at once", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const counts = projection("counts", { on: [Counted] }, () => {});
  const position = await append(store, 1);
  const late = assert.rejects(waitFor({ store, clock }, [counts], position, { waitMs: 1_000 }), {
    code: "NOT_CAUGHT_UP",
    retryable: true,
    details: { projections: ["counts"], position: position.toString() },
  });
  await clock.advance(1_200);
  await late;
  const controller = new AbortController();
  const stopped = assert.rejects(
    waitFor({ store, clock }, [counts], position, { waitMs: 1_000, signal: controller.signal }),
    { code: "ABORTED" },
  );
  await clock.advance(1);
  controller.abort();
  await stopped;
});

test("events that cannot be read stop the projection visibly instead of being skipped", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const counts = projection("counts", { on: [Counted] }, () => {});
  await store.events.append([{ stream: "s", expected: "any", events: [encoded(Counted, { n: "one" })] }]);
  const loop = run(store, clock, counts);
  await clock.advance(20_000);
  assert.equal(await store.checkpoints.load("counts"), 0n);
  assert.equal(loop.health().healthy, false);
  assert.match(loop.health().error!, /counted/);
  await loop.stop();
});
