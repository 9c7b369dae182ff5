/** Pausing, rebuilding, lanes, targets elsewhere. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { waitFor } from "../../src/sourcing/caught_up.ts";
import { type Projection, projection, type ProjectionTarget } from "../../src/sourcing/projection.ts";
import { gate } from "./messaging_fixture.ts";
import { Counted, Other, stage } from "./sourcing_fixture.ts";

test("a pause waits for the batch under way, and no further one commits until it is resumed", async () => {
  // Interleaving: the handler is in its transaction; pause() is called; the handler ends; more events come.
  const { clock, store, run, append, operate } = stage();
  const middle = gate();
  const applied: number[] = [];
  const numbers = projection("numbers", { on: [Counted], batchSize: 2 }, async (events) => {
    if (applied.length === 0) await middle.passed;
    applied.push(...events.map(({ data }) => data.n));
  });
  await append("a", 1, 2, 3, 4);
  const loop = run(numbers);
  await clock.advance(10);
  const app = operate(numbers);
  let paused = false;
  const pausing = app.pause("numbers").then(() => paused = true);
  await clock.advance(100);
  assert.equal(paused, false);
  middle.open();
  await pausing;
  const at = await store.checkpoints.load("numbers");
  await clock.advance(30_000);
  assert.equal(await store.checkpoints.load("numbers"), at);
  const [status] = await app.list();
  assert.deepEqual([status!.state, loop.health().healthy], ["paused", true]);
  await app.resume("numbers");
  await clock.advance(2_000);
  assert.deepEqual(applied, [1, 2, 3, 4]);
  await loop.stop();
});

/** Keeps sums by the suffix of the build, and what the hooks were called with. */
function sums(version = 1): {
  readonly projection: Projection;
  readonly sums: Map<string, number>;
  readonly calls: string[];
} {
  const kept = new Map<string, number>();
  const calls: string[] = [];
  const note = (what: string) => ({ suffix, build }: ProjectionTarget): void => {
    calls.push(`${what} ${build}${suffix}`);
    if (what === "drop") kept.delete(suffix);
    if (what === "create") kept.set(suffix, 0);
  };
  return {
    sums: kept,
    calls,
    projection: projection(
      "sums",
      {
        on: [Counted],
        version,
        batchSize: 5,
        create: note("create"),
        swap: note("swap"),
        drop: note("drop"),
      },
      (events, { suffix }) => {
        const sum = events.reduce((total, { data }) => total + data.n * version, 0);
        kept.set(suffix, kept.get(suffix)! + sum);
      },
    ),
  };
}

test("a rebuild fills a new build beside the live one, which goes on, and then takes its place", async () => {
  const { clock, store, run, append, operate } = stage();
  const { projection: Sums, sums: kept, calls } = sums();
  await append("a", ...Array.from({ length: 40 }, () => 1));
  const loop = run(Sums);
  await clock.advance(100);
  const app = operate(Sums);
  assert.equal(kept.get(""), 40);
  await app.pause("sums"); // the new build stands still with the live one, to be looked at
  assert.equal(await app.rebuild("sums"), 2);
  assert.equal(await app.rebuild("sums"), 2, "the one under way");
  const [status] = await app.list();
  assert.deepEqual([status!.rebuild?.build, status!.rebuild?.progress, status!.build], [2, 0, 1]);
  await append("a", 1, 1);
  await app.resume("sums");
  await clock.advance(20_000);
  assert.deepEqual([kept.get("_2"), kept.get("")], [42, undefined]);
  assert.deepEqual(calls, ["create 1", "swap 1", "create 2_2", "swap 2_2", "drop 1"]);
  const [after] = await app.list();
  assert.deepEqual([after!.build, after!.suffix, after!.rebuild, after!.position], [2, "_2", undefined, 42n]);
  assert.equal(await store.checkpoints.load("sums"), 0n, "the first build's checkpoint is gone");
  const position = await append("a", 1);
  await Promise.all([
    waitFor({ store, clock }, [Sums], position, { waitMs: 5_000 }),
    clock.advance(5_000),
  ]);
  assert.equal(kept.get("_2"), 43);
  await loop.stop();
});

test("while builds are swapped the live one stands still, and the next one never takes its place before it is level", async () => {
  // Interleaving: the next build is nearly level; the live one applies another batch; only then are they swapped.
  const { clock, store, run, append, operate } = stage();
  const { projection: Sums, sums: kept } = sums();
  await append("a", ...Array.from({ length: 20 }, () => 1));
  const loop = run(Sums);
  const app = operate(Sums);
  await clock.advance(100);
  await app.rebuild("sums");
  let before = 20n;
  for (let n = 0; n < 400; n++) {
    await append("a", 1);
    await clock.advance(7);
    const control = await store.projections.load("sums");
    const [status] = await app.list();
    assert.ok(status!.position >= before, `went back from ${before} to ${status!.position}`);
    before = status!.position;
    if (control!.live.build === 2) break;
  }
  assert.equal((await store.projections.load("sums"))!.live.build, 2);
  await clock.advance(2_000);
  assert.equal(BigInt(kept.get("_2")!), await store.events.head());
  await loop.stop();
});

test("a rebuild that is called off leaves the live build as it was, and the next one starts from the beginning", async () => {
  const { clock, run, append, operate } = stage();
  const { projection: Sums, sums: kept, calls } = sums();
  await append("a", 1, 2, 3);
  const loop = run(Sums);
  const app = operate(Sums);
  await clock.advance(100);
  await app.pause("sums");
  await app.rebuild("sums");
  await app.cancelRebuild("sums");
  await app.resume("sums");
  await clock.advance(3_000);
  assert.deepEqual([kept.get(""), kept.get("_2"), calls], [6, undefined, [
    "create 1",
    "swap 1",
    "create 2_2",
    "drop 2_2",
  ]]);
  assert.equal(await app.rebuild("sums"), 2);
  await clock.advance(5_000);
  assert.deepEqual([kept.get(""), kept.get("_2")], [undefined, 6]);
  await loop.stop();
});

test("a new version of the code builds its own read model, while the old version serves and goes on", async () => {
  const { clock, run, append, operate } = stage();
  const [old, fresh] = [sums(1), sums(2)];
  await append("a", ...Array.from({ length: 12 }, () => 1));
  const p1 = run(old.projection, "p1");
  await clock.advance(100);
  const p2 = run(fresh.projection, "p2");
  await clock.advance(20);
  assert.equal(old.sums.get(""), 12);
  await append("a", 1);
  await clock.advance(10_000);
  assert.deepEqual(
    [old.sums.get(""), old.sums.get("_2")],
    [13, undefined],
    "the old code never runs the new build",
  );
  assert.deepEqual([fresh.sums.get(""), fresh.sums.get("_2")], [undefined, 26]);
  assert.deepEqual((await operate(fresh.projection).list()).map(({ build, state }) => [build, state]), [[
    2,
    "running",
  ]]);
  await append("a", 1);
  await clock.advance(3_000);
  assert.deepEqual([old.sums.get(""), fresh.sums.get("_2")], [13, 28], "the old code works no more");
  await Promise.all([p1.stop(), p2.stop()]);
});

test("lanes run at the same time, each keeps the order of its streams, and all events are applied once", async () => {
  const { clock, store, run, append, operate } = stage();
  const applied: string[] = [];
  const numbers = projection("numbers", { on: [Counted], lanes: 4, batchSize: 3 }, (events, { lane }) => {
    applied.push(...events.map(({ stream, data }) => `${lane} ${stream} ${data.n}`));
  });
  let last = 0n;
  for (let n = 1; n <= 5; n++) {
    for (let stream = 0; stream < 20; stream++) last = await append(`s-${stream}`, n);
  }
  const loop = run(numbers);
  await clock.advance(1_000);
  assert.equal(applied.length, 100);
  for (let stream = 0; stream < 20; stream++) {
    const own = applied.map((line) => line.split(" ")).filter(([, name]) => name === `s-${stream}`);
    assert.deepEqual(own.map(([, , n]) => n), ["1", "2", "3", "4", "5"], `s-${stream}`);
    assert.equal(new Set(own.map(([lane]) => lane)).size, 1, `lanes of s-${stream}`);
  }
  assert.equal(new Set(applied.map((line) => line.split(" ")[0])).size, 4);
  await waitFor({ store, clock }, [numbers], last, { waitMs: 0 });
  assert.deepEqual((await operate(numbers).list()).map(({ lanes, lag }) => [lanes, lag]), [[4, 0n]]);

  // Another number of lanes counts for the next build only: this one goes on as it began.
  await loop.stop();
  const more = run(projection("numbers", { on: [Counted], lanes: 2 }, (events) => {
    applied.push(...events.map(({ data }) => `again ${data.n}`));
  }));
  await append("s-1", 6);
  await clock.advance(3_000);
  assert.deepEqual(applied.slice(100), ["again 6"]);
  await more.stop();
});

test("a target elsewhere: the handler has no transaction, keeps its lease however long it takes, and knows its position", async () => {
  const { clock, store, run, append } = stage();
  const long = gate();
  const got: unknown[] = [];
  const numbers = projection("numbers", { on: [Counted], transactional: false }, async (events, context) => {
    await store.events.readStream("a"); // inside a transaction this would wait for itself
    await long.passed;
    got.push([events.length, context.position, context.epoch, context.signal.aborted]);
  });
  await append("a", 1, 2);
  const p1 = run(numbers, "p1");
  await clock.advance(10);
  const p2 = run(numbers, "p2");
  await clock.advance(60_000);
  long.open();
  await clock.advance(10);
  assert.deepEqual(got, [[2, 2n, 1, false]]);
  assert.equal(await store.checkpoints.load("numbers"), 2n);
  await Promise.all([p1.stop(), p2.stop()]);
});

test("a target elsewhere: the signal of a handler whose lease is lost aborts, and its checkpoint is refused", async () => {
  // Interleaving: p1's handler runs; somebody takes its lease away; p2 applies the batch; p1's handler ends.
  const { clock, store, run, append } = stage();
  const long = gate();
  const got: string[] = [];
  const as = (owner: string): Projection =>
    projection("numbers", { on: [Counted], transactional: false }, async (_, { signal, epoch }) => {
      if (owner === "p1") await long.passed;
      got.push(`${owner} ${epoch} ${signal.aborted}`);
    });
  await append("a", 1);
  const p1 = run(as("p1"), "p1");
  await clock.advance(10);
  await store.leases.revoke("projection/numbers");
  const p2 = run(as("p2"), "p2");
  await clock.advance(2_500);
  assert.deepEqual(got, ["p2 2 false"]);
  long.open();
  await clock.advance(10);
  assert.deepEqual(got, ["p2 2 false", "p1 1 true"]);
  await append("a", 2);
  await p1.stop();
  await clock.advance(2_000);
  assert.equal(await store.checkpoints.load("numbers"), 2n);
  await p2.stop();
});

test("a projection of a category, or of everything, gets its streams' events of all types as they are stored", async () => {
  const { clock, run, append, appendOther } = stage();
  const [all, orders]: [string[], string[]] = [[], []];
  const everything = projection("all", {}, (events) => {
    all.push(...events.map(({ type, stream }) => `${type} ${stream}`));
  });
  const ofOrders = projection("orders", { category: "order", on: [Counted] }, (events) => {
    orders.push(...events.map(({ stream, data }) => `${stream} ${data.n}`));
  });
  await append("order-1", 1);
  await appendOther("order-1");
  await append("orders-2", 2);
  await append("order", 3);
  await append("order-4-5", 4);
  const loops = [run(everything), run(ofOrders)];
  await clock.advance(100);
  assert.deepEqual(all, [
    "counted order-1",
    "other order-1",
    "counted orders-2",
    "counted order",
    "counted order-4-5",
  ]);
  assert.deepEqual(orders, ["order-1 1", "order-4-5 4"]);
  await Promise.all(loops.map((loop) => loop.stop()));
});

test("waiting for an event of another type takes no time: there is nothing to wait for", async () => {
  const { clock, store, run, append, appendOther } = stage();
  const numbers = projection("numbers", { on: [Counted] }, () => {});
  const others = projection("others", { on: [Other] }, () => {});
  const position = await append("a", 1);
  const only = await appendOther("a");
  const loop = run(numbers);
  await clock.advance(10);
  await waitFor({ store, clock }, [numbers], only, { waitMs: 0 });
  const late = assert.rejects(waitFor({ store, clock }, [others, numbers], only, { waitMs: 10 }), {
    code: "NOT_CAUGHT_UP",
    details: { projections: ["others"], position: only.toString() },
  });
  await clock.advance(100);
  await late;
  await waitFor({ store, clock }, [others], position, { waitMs: 0 });
  await loop.stop();
});

test("bad options are refused before anything runs", () => {
  const define = (options: object): unknown => projection("p", options, () => {});
  for (
    const options of [
      { lanes: 0 },
      { lanes: 300 },
      { batchSize: 0.5 },
      { version: 0 },
      { category: "a b" },
      { retry: { attempts: 0 } },
      { inline: true, transactional: false },
    ]
  ) {
    assert.throws(() => define(options), { code: "INVALID_ARGUMENT" }, JSON.stringify(options));
  }
});

test("operating a projection that is not registered says so", async () => {
  const { operate } = stage();
  const app = operate();
  for (
    const call of [app.pause("no"), app.rebuild("no"), app.parked("no"), app.waitFor("1", { names: ["no"] })]
  ) {
    await assert.rejects(call, { code: "NOT_FOUND" });
  }
});
