import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../../src/core/clock.ts";
import { virtualClock } from "../../src/testing/mod.ts";

test("time stands still until it is advanced", async () => {
  const clock = virtualClock(1_000);
  let fired = false;
  clock.after(0, () => fired = true);
  await new Promise((resolve) => setTimeout(resolve, 5));
  assert.deepEqual([clock.now(), clock.monotonic(), fired, clock.pending], [1_000, 0, false, 1]);
  await clock.advance(0);
  assert.deepEqual([clock.now(), clock.monotonic(), fired, clock.pending], [1_000, 0, true, 0]);
  await clock.advance(250);
  assert.deepEqual([clock.now(), clock.monotonic()], [1_250, 250]);
});

test("timers fire in the order of their times, each at its own time, and equal ones in the order they were set", async () => {
  const clock = virtualClock();
  const fired: string[] = [];
  for (const [name, ms] of [["c", 30], ["a", 10], ["b1", 20], ["b2", 20], ["late", 101]] as const) {
    clock.after(ms, () => fired.push(`${name} at ${clock.monotonic()}`));
  }
  assert.equal(clock.nextMs, 10);
  await clock.advance(100);
  assert.deepEqual(fired, ["a at 10", "b1 at 20", "b2 at 20", "c at 30"]);
  assert.deepEqual([clock.pending, clock.nextMs], [1, 1]);
});

test("a cancelled timer does not fire, and cancelling twice or late is harmless", async () => {
  const clock = virtualClock();
  let fired = 0;
  const cancel = clock.after(10, () => fired++);
  cancel();
  cancel();
  const late = clock.after(5, () => fired++);
  await clock.advance(10);
  late();
  assert.deepEqual([fired, clock.pending], [1, 0]);
});

test("promise jobs run to their end between two timers, also long chains that set timers", async () => {
  const clock = virtualClock();
  const seen: string[] = [];
  const work = async () => {
    await sleep(clock, 10);
    for (let n = 0; n < 1_000; n++) await null;
    seen.push(`chain done at ${clock.monotonic()}`);
    await sleep(clock, 5);
    seen.push(`slept until ${clock.monotonic()}`);
  };
  const done = work();
  clock.after(11, () => seen.push("timer at 11"));
  await clock.advance(15);
  assert.deepEqual(seen, ["chain done at 10", "timer at 11", "slept until 15"]);
  await done;
});

test("promise jobs run to their end again and again in one advance", async () => {
  const clock = virtualClock();
  let done = 0;
  const work = async () => {
    for (let round = 0; round < 20; round++) {
      const before = clock.monotonic();
      for (let n = 0; n < 100; n++) await null;
      assert.equal(clock.monotonic(), before, "time passed while promise jobs ran");
      await sleep(clock, 1);
      done++;
    }
  };
  const working = work();
  await clock.advance(20);
  await working;
  assert.equal(done, 20);
});

test("advances that overlap follow each other", async () => {
  const clock = virtualClock();
  const fired: number[] = [];
  clock.after(10, () => fired.push(clock.monotonic()));
  clock.after(20, () => fired.push(clock.monotonic()));
  await Promise.all([clock.advance(10), clock.advance(10)]);
  assert.deepEqual([fired, clock.monotonic()], [[10, 20], 20]);
});

test("an advance backwards is refused", () => {
  assert.throws(() => virtualClock().advance(-1), { code: "INVALID_ARGUMENT" });
});
