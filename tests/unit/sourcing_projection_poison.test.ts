/** Events that a projection cannot apply. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MillstreamError } from "../../src/core/errors.ts";
import { type Projection, projection, type ProjectionOptions } from "../../src/sourcing/projection.ts";
import { Counted, stage } from "./sourcing_fixture.ts";

/** Applies all numbers but those that are bad. */
function picky(
  bad: ReadonlySet<number>,
  options: Omit<ProjectionOptions<readonly [typeof Counted]>, "on">,
): { readonly numbers: Projection; readonly applied: number[]; readonly tried: number[] } {
  const applied: number[] = [];
  const tried: number[] = [];
  const numbers = projection("numbers", { on: [Counted], ...options }, (events) => {
    const batch = events.map(({ data }) => data.n);
    tried.push(...batch);
    const wrong = batch.find((n) => bad.has(n));
    if (wrong !== undefined) throw new Error(`bad number ${wrong}`);
    applied.push(...batch);
  });
  return { numbers, applied, tried };
}

test("park: an event that fails at each attempt is put aside, its neighbours are applied once and in order", async () => {
  const { clock, store, run, append, operate, seen } = stage();
  const bad = new Set([5]);
  const { numbers, applied, tried } = picky(bad, { poison: "park", retry: { attempts: 3, baseMs: 100 } });
  await append("a", 1, 2, 3);
  await append("b", 4, 5, 6);
  const last = await append("a", 7, 8);
  const loop = run(numbers);
  await clock.advance(1_000);
  assert.deepEqual(applied, [1, 2, 3, 4, 6, 7, 8]);
  assert.equal(await store.checkpoints.load("numbers"), last);
  assert.equal(tried.filter((n) => n === 5).length > 3, true, "with others, and then three times alone");
  const app = operate(numbers);
  const [parked, ...more] = await app.parked("numbers");
  assert.equal(more.length, 0);
  assert.deepEqual(
    [parked!.stream, parked!.version, parked!.position, parked!.attempts, parked!.error],
    ["b", 2, 5n, 3, "bad number 5"],
  );
  assert.deepEqual((await app.list()).map(({ parked, state, lag }) => [parked, state, lag]), [[
    1,
    "running",
    0n,
  ]]);
  assert.ok(seen.some((one) => one.kind === "parked" && one.id === parked!.id));

  assert.deepEqual(await app.retryParked("numbers"), { applied: 0, failed: 1 });
  assert.equal((await app.parked("numbers"))[0]!.attempts, 4);
  bad.clear();
  assert.deepEqual(await app.retryParked("numbers", { position: 4n }), { applied: 0, failed: 0 });
  assert.deepEqual(await app.retryParked("numbers", { position: 5n }), { applied: 1, failed: 0 });
  assert.equal(applied.at(-1), 5);
  assert.deepEqual(await app.parked("numbers"), []);
  await append("b", 9);
  await clock.advance(2_000);
  assert.equal(applied.at(-1), 9, "the worker has its lane back");
  await loop.stop();
});

test("park: many bad events are put aside one by one, and can be forgotten", async () => {
  const { clock, run, append, operate } = stage();
  const bad = new Set([1, 2, 64, 99, 100]);
  const { numbers, applied } = picky(bad, { poison: "park", retry: { attempts: 1 }, batchSize: 30 });
  await append("a", ...Array.from({ length: 100 }, (_, n) => n + 1));
  const loop = run(numbers);
  await clock.advance(5_000);
  assert.deepEqual(applied, Array.from({ length: 100 }, (_, n) => n + 1).filter((n) => !bad.has(n)));
  const app = operate(numbers);
  assert.deepEqual((await app.parked("numbers", { limit: 2 })).map(({ position }) => position), [1n, 2n]);
  assert.equal(await app.discardParked("numbers", 1n), true);
  assert.equal(await app.discardParked("numbers", 1n), false);
  assert.deepEqual((await app.parked("numbers", { after: 2n })).map(({ position }) => position), [
    64n,
    99n,
    100n,
  ]);
  await loop.stop();
});

test("park: an event whose data is not what its schema says is put aside at once", async () => {
  const { clock, run, append, operate } = stage();
  const { numbers, applied } = picky(new Set(), { poison: "park" });
  await append("a", 1, "two", 3);
  const loop = run(numbers);
  await clock.advance(100);
  assert.deepEqual(applied, [1, 3]);
  assert.match((await operate(numbers).parked("numbers"))[0]!.error, /counted/);
  await loop.stop();
});

test("stop: the projection stops before the event, says so, and goes on when it is resumed", async () => {
  const { clock, store, run, append, operate } = stage();
  const bad = new Set([3]);
  const { numbers, applied, tried } = picky(bad, { poison: "stop", retry: { attempts: 2, baseMs: 100 } });
  await append("a", 1, 2, 3, 4);
  const [p1, p2] = [run(numbers, "p1"), run(numbers, "p2")];
  const app = operate(numbers);
  await clock.advance(5_000);
  assert.deepEqual(applied, [1, 2]);
  const [status] = await app.list();
  assert.deepEqual([status!.state, status!.lag, status!.position], ["stopped", 2n, 2n]);
  assert.match(status!.reason!, /"counted" \(version 3 of stream "a"\): bad number 3/);
  for (const loop of [p1, p2]) {
    assert.equal(loop.health().healthy, false);
    assert.match(loop.health().error!, /bad number 3/);
  }
  const before = tried.length;
  await clock.advance(120_000);
  assert.equal(tried.length, before, "nobody tries any more");
  assert.equal((await app.list())[0]!.lagMs >= 120_000, true);

  bad.clear();
  await app.resume("numbers");
  await clock.advance(3_000);
  assert.deepEqual(applied, [1, 2, 3, 4]);
  assert.equal(await store.checkpoints.load("numbers"), 4n);
  assert.equal(p1.health().healthy && p2.health().healthy, true);
  await Promise.all([p1.stop(), p2.stop()]);
});

test("retry: tries for ever with growing pauses, and says so", async () => {
  const { clock, run, append } = stage();
  const bad = new Set([2]);
  const { numbers, applied, tried } = picky(bad, { retry: { attempts: 2, baseMs: 1_000, maxMs: 60_000 } });
  await append("a", 1, 2, 3);
  const loop = run(numbers);
  await clock.advance(600_000);
  assert.deepEqual(applied, [1]);
  assert.equal(loop.health().healthy, false);
  assert.equal(loop.health().error, "bad number 2");
  const tries = tried.filter((n) => n === 2).length;
  assert.ok(tries > 10 && tries < 40, `${tries} tries in 10 minutes`);
  bad.clear();
  await clock.advance(60_000);
  assert.deepEqual(applied, [1, 2, 3]);
  assert.equal(loop.health().healthy, true);
  await loop.stop();
});

test("a store that is not there is nobody's fault: nothing is put aside, however long it takes", async () => {
  const { clock, run, append, operate } = stage();
  let down = true;
  const applied: number[] = [];
  const numbers = projection(
    "numbers",
    { on: [Counted], poison: "park", retry: { attempts: 1 } },
    (events) => {
      if (down) throw new MillstreamError("UNAVAILABLE", "Cannot reach Postgres");
      applied.push(...events.map(({ data }) => data.n));
    },
  );
  await append("a", 1, 2);
  const loop = run(numbers);
  await clock.advance(60_000);
  assert.equal(loop.health().healthy, false);
  down = false;
  await clock.advance(10_000);
  assert.deepEqual([applied, await operate(numbers).parked("numbers")], [[1, 2], []]);
  await loop.stop();
});
