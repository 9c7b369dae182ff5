import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Clock } from "../../src/core/clock.ts";
import { isMillstreamError } from "../../src/core/errors.ts";
import { createBell, createBells, poll } from "../../src/postgres/wakeup.ts";

describe("poll", () => {
  test("returns at once what is there at the first look", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    const found = await poll(() => Promise.resolve("x"), {
      clock,
      bell,
      waitMs: 1_000,
      intervals: INTERVALS,
    });
    assert.equal(found, "x");
    assert.equal(clock.timers(), 0);
  });

  test("looks once if there is no time to wait", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    let looks = 0;
    const look = () => Promise.resolve(void looks++);
    assert.equal(
      await poll(look, { clock, bell, waitMs: 0, intervals: INTERVALS }),
      undefined,
    );
    assert.equal(looks, 1);
  });

  test("looks at growing intervals, never sleeps beyond the time to wait, and looks once more at its end", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    const times: number[] = [];
    const look = () => Promise.resolve(void times.push(clock.monotonic()));
    const polling = poll(look, {
      clock,
      bell,
      waitMs: 1_000,
      intervals: { minMs: 10, maxMs: 250 },
    });
    await clock.run();
    assert.equal(await polling, undefined);
    assert.equal(times.at(-1), 1_000);
    const gaps = times.slice(1).map((time, index) => time - (times[index] ?? 0));
    assert.ok(
      Math.max(...gaps) <= 250 * 1.25,
      `longest gap ${Math.max(...gaps)}`,
    );
    assert.ok((gaps[0] ?? 0) <= 12.5, `first gap ${gaps[0]}`);
    assert.ok(times.length >= 7 && times.length <= 14, `${times.length} looks`);
  });

  test("looks again at once when the bell rings, also between a look and the wait after it", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    let looks = 0;
    const look = () => {
      looks++;
      if (looks === 1) bell.ring(); // as if it came in while the query ran
      return Promise.resolve(looks === 2 ? "found" : undefined);
    };
    assert.equal(
      await poll(look, { clock, bell, waitMs: 60_000, intervals: INTERVALS }),
      "found",
    );
    assert.equal(clock.monotonic(), 0);
  });

  test("rejects with ABORTED when the signal aborts while it waits, and leaves no timer behind", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    const { signal, abort } = abortion();
    const look = () => Promise.resolve(undefined);
    const polling = poll(look, {
      clock,
      bell,
      waitMs: 60_000,
      intervals: INTERVALS,
      signal,
    });
    await turn();
    abort();
    await assert.rejects(
      polling,
      (error) => isMillstreamError(error, "ABORTED"),
    );
    assert.equal(clock.timers(), 0);
  });

  test("returns what a look took although the signal aborted meanwhile", async () => {
    const clock = manualClock();
    const bell = createBell(clock);
    const { signal, abort } = abortion();
    const look = () => {
      abort();
      return Promise.resolve("taken");
    };
    assert.equal(
      await poll(look, {
        clock,
        bell,
        waitMs: 1_000,
        intervals: INTERVALS,
        signal,
      }),
      "taken",
    );
  });
});

describe("bells", () => {
  test("a topic's bell wakes all its groups and no other topic", async () => {
    const clock = manualClock();
    const bells = createBells(clock);
    const woken: string[] = [];
    for (
      const [topic, group] of [["a", "one"], ["a", "two"], [
        "b",
        "one",
      ]] as const
    ) {
      const bell = bells.get(topic, group);
      void bell.wait(bell.rings, 60_000, undefined).then(() => woken.push(`${topic}/${group}`));
    }
    bells.ring("a");
    await turn();
    assert.deepEqual(woken.sort(), ["a/one", "a/two"]);
    bells.get("b", "one").ring();
    await turn();
    assert.deepEqual(woken.sort(), ["a/one", "a/two", "b/one"]);
  });
});

const INTERVALS = { minMs: 10, maxMs: 250 };

function abortion(): {
  readonly signal: AbortSignal;
  readonly abort: () => void;
} {
  const controller = new AbortController();
  return { signal: controller.signal, abort: () => controller.abort() };
}

/** Lets everything that is ready run. */
async function turn(): Promise<void> {
  for (let n = 0; n < 20; n++) await Promise.resolve();
}

/** A clock whose timers fire only when told to. */
function manualClock(): Clock & { timers(): number; run(): Promise<void> } {
  let now = 0;
  const timers = new Map<() => void, number>();
  return {
    now: () => now,
    monotonic: () => now,
    after(ms, callback) {
      const fire = () => callback();
      timers.set(fire, now + ms);
      return () => void timers.delete(fire);
    },
    timers: () => timers.size,
    /** Fires one timer after the other until there is none. */
    async run() {
      for (await turn(); timers.size > 0; await turn()) {
        const [fire, time] = [...timers].sort((a, b) => a[1] - b[1])[0] ?? [];
        if (!fire) return;
        timers.delete(fire);
        now = time ?? now;
        fire();
      }
    },
  };
}
