import type { Clock } from "../../src/core/clock.ts";

/** A clock that stands still until it is moved, and counts its timers. */
export interface StoppedClock extends Clock {
  advance(ms: number): void;
  readonly timers: number;
}

/** A {@linkcode StoppedClock}. */
export function stoppedClock(start = 0): StoppedClock {
  let now = start;
  const timers = new Set<
    { readonly at: number; readonly callback: () => void }
  >();
  return {
    now: () => now,
    monotonic: () => now,
    after(ms, callback) {
      const timer = { at: now + ms, callback };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    advance(ms) {
      now += ms;
      for (const timer of [...timers].filter(({ at }) => at <= now)) {
        timers.delete(timer);
        timer.callback();
      }
    },
    get timers() {
      return timers.size;
    },
  };
}
