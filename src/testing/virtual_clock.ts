/**
 * Time that passes only when a test says so.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";

/** A {@linkcode Clock} that stands still until it is advanced. */
export interface VirtualClock extends Clock {
  /**
   * Lets `ms` milliseconds pass: runs the timers that fall due, in the order of their times (those of the same time in
   * the order they were set), each at its own time, and lets all promise jobs run before the next timer and at the
   * end. Timers that are set meanwhile count. Calls queue up. Real I/O is not waited for.
   */
  advance(ms: number): Promise<void>;
  /** Timers that wait. */
  readonly pending: number;
  /** Milliseconds until the next timer is due, if there is one. */
  readonly nextMs: number | undefined;
}

interface Timer {
  readonly due: number;
  readonly callback: () => void;
}

/**
 * Creates a {@linkcode VirtualClock}.
 *
 * @example
 * ```ts ignore
 * const clock = virtualClock();
 * const broker = memoryBroker({ clock });
 * await broker.publish("orders", [message], { delayMs: 60_000 });
 * await clock.advance(60_000); // a minute later
 * ```
 * @param startMs Wall clock at the beginning, in milliseconds since 1970. Monotonic time begins at 0.
 */
export function virtualClock(startMs: number = Date.UTC(2026, 0, 1)): VirtualClock {
  const timers: Timer[] = []; // by due time, then by the order they were set
  let elapsed = 0;
  let advancing: Promise<void> = Promise.resolve();

  async function run(ms: number): Promise<void> {
    const end = elapsed + ms;
    await promiseJobs();
    while (timers.length > 0 && timers[0]!.due <= end) {
      const { due, callback } = timers.shift()!;
      elapsed = Math.max(elapsed, due);
      callback();
      await promiseJobs();
    }
    elapsed = end;
  }

  return {
    now: () => startMs + elapsed,
    monotonic: () => elapsed,
    after(ms, callback) {
      const timer = { due: elapsed + Math.max(0, ms), callback };
      timers.splice(insertionPoint(timers, timer.due), 0, timer);
      return () => {
        const at = timers.indexOf(timer);
        if (at >= 0) timers.splice(at, 1);
      };
    },
    advance(ms) {
      checkRange("ms", ms, 0, Number.MAX_SAFE_INTEGER);
      const done = advancing.then(() => run(ms));
      advancing = done.catch(() => {});
      return done;
    },
    get pending() {
      return timers.length;
    },
    get nextMs() {
      return timers[0] && timers[0].due - elapsed;
    },
  };
}

/** After all timers that are due at the same time or before. */
function insertionPoint(timers: readonly Timer[], due: number): number {
  let low = 0;
  for (let high = timers.length; low < high;) {
    const middle = (low + high) >> 1;
    if (timers[middle]!.due <= due) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * Resolves when all promise jobs have run: a message is delivered by the event loop, which comes after them. A new
 * channel each time, since Deno delivers the second message of a channel among promise jobs.
 */
function promiseJobs(): Promise<void> {
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}
