/**
 * Wakes readers for delayed messages that are due soon. A reader that waits learns of a new delay only when its wait
 * ends; so whoever adds one moves it to the stream in time, which wakes the reader. If that fails nothing is lost: the
 * readers look for themselves every second or two.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";

/** Timers, at most one per sorted set. */
export interface Wakeups {
  /** Something in the set called `name` is due in `delayMs`; `promote` moves it and says when the next is due, or -1. */
  plan(name: string, delayMs: number, promote: () => Promise<number>): void;
  /** Stops all timers. */
  stop(): void;
}

/** Readers look by themselves at least this often, so longer delays need no timer. */
const HORIZON_MS = 5_000;

/** Creates an empty {@linkcode Wakeups}. */
export function wakeups(clock: Clock): Wakeups {
  const planned = new Map<string, { readonly at: number; readonly cancel: () => void }>();
  let stopped = false;

  function plan(name: string, delayMs: number, promote: () => Promise<number>): void {
    if (stopped || delayMs < 0 || delayMs > HORIZON_MS) return;
    const at = clock.monotonic() + delayMs;
    const earlier = planned.get(name);
    if (earlier && earlier.at <= at) return;
    earlier?.cancel();
    const cancel = clock.after(delayMs + 1, () => {
      planned.delete(name);
      promote().then((next) => plan(name, next, promote), () => {});
    });
    planned.set(name, { at, cancel });
  }

  function stop(): void {
    stopped = true;
    for (const { cancel } of planned.values()) cancel();
    planned.clear();
  }

  return { plan, stop };
}
