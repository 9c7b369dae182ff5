/**
 * Waiting for something to appear in a table: polling, made short by a bell that this process rings when it wrote
 * something itself. NOTIFY is not used: it takes a lock on commit, and LISTEN does not pass through a pooler.
 *
 * @module
 */
import { aborted, type Clock } from "../core/clock.ts";

/** Wakes those in this process who wait for the same thing. */
export interface Bell {
  /** Counts the rings, so that none is missed between looking and waiting. */
  readonly rings: number;
  /** Wakes all who wait. */
  ring(): void;
  /** Resolves after `ms`, or at the first ring since the count was `rings`; rejects with `ABORTED`. */
  wait(rings: number, ms: number, signal: AbortSignal | undefined): Promise<void>;
}

/** A bell nobody waits for yet. */
export function createBell(clock: Clock): Bell {
  const sleepers = new Set<() => void>();
  let rings = 0;
  return {
    get rings() {
      return rings;
    },
    ring() {
      rings++;
      for (const wake of [...sleepers]) wake();
    },
    wait(since, ms, signal) {
      if (signal?.aborted) return Promise.reject(aborted(signal));
      if (rings !== since) return Promise.resolve();
      return new Promise((resolve, reject) => {
        const cancel = clock.after(ms, wake);
        sleepers.add(wake);
        signal?.addEventListener("abort", onAbort, { once: true });
        function wake(): void {
          forget();
          resolve();
        }
        function onAbort(): void {
          forget();
          reject(aborted(signal));
        }
        function forget(): void {
          cancel();
          sleepers.delete(wake);
          signal?.removeEventListener("abort", onAbort);
        }
      });
    },
  };
}

/** Bells by topic and group. */
export interface Bells {
  /** The bell of a group, or of the topic itself. */
  get(topic: string, group?: string): Bell;
  /** Rings all bells of a topic. */
  ring(topic: string): void;
}

/** No bells yet: each comes into being when it is first waited for. */
export function createBells(clock: Clock): Bells {
  const topics = new Map<string, Map<string, Bell>>();
  return {
    get(topic, group = "") {
      const bells = topics.get(topic) ?? new Map<string, Bell>();
      topics.set(topic, bells);
      const bell = bells.get(group) ?? createBell(clock);
      bells.set(group, bell);
      return bell;
    },
    ring(topic) {
      for (const bell of topics.get(topic)?.values() ?? []) bell.ring();
    },
  };
}

/** How often to look while nothing happens. */
export interface PollIntervals {
  /** The first interval, in milliseconds; it doubles with each look in vain. @default 10 */
  readonly minMs: number;
  /** The longest interval, in milliseconds: how late news from another process may be noticed. @default 250 */
  readonly maxMs: number;
}

/** Options of {@linkcode poll}. */
export interface PollOptions {
  readonly clock: Clock;
  readonly intervals: PollIntervals;
  readonly bell: Bell;
  readonly waitMs: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Looks again and again until `look` returns something or `waitMs` have passed, then returns `undefined`. Intervals
 * are jittered by a quarter, so that many processes do not look in step.
 *
 * @throws `ABORTED` if the signal aborts between two looks. A look that is under way is finished.
 */
export async function poll<T>(
  look: () => Promise<T | undefined>,
  options: PollOptions,
): Promise<T | undefined> {
  const { clock, intervals, bell, waitMs, signal } = options;
  const end = clock.monotonic() + waitMs;
  for (let interval = intervals.minMs;;) {
    if (signal?.aborted) throw aborted(signal);
    const rings = bell.rings;
    const found = await look();
    if (found !== undefined) return found;
    const left = end - clock.monotonic();
    if (left <= 0) return undefined;
    await bell.wait(rings, Math.min(left, interval * (0.75 + Math.random() / 2)), signal);
    interval = bell.rings === rings ? Math.min(intervals.maxMs, interval * 2) : intervals.minMs;
  }
}
