/**
 * Operating dead letters: looking at them, sending them back, removing them, whatever the broker.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Abortable, type Clock, sleep } from "../core/clock.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters } from "../ports/dead_letters.ts";

/** The dead letters that match a filter. */
export interface DeadLetterQueue {
  /** Oldest first, at most `limit` (100) after the dead letter with id `after`. */
  list(page?: { readonly limit?: number; readonly after?: string }): Promise<readonly DeadLetter[]>;
  /** How many there are. */
  count(): Promise<number>;
  /** One of them, whether it matches the filter or not. `undefined` if it is not there. */
  get(deadLetterId: string): Promise<DeadLetter | undefined>;
  /**
   * Gives one, or all that match, back to the group that gave them up, oldest first, with a fresh budget of attempts.
   * Those that fail again while this goes on are left for the next time. What was redriven stays so when it is stopped.
   */
  redrive(what?: string | RedriveOptions): Promise<Swept>;
  /** Forgets one, or all that match, for good. */
  purge(what?: string | PurgeOptions): Promise<Swept>;
}

/** Options of {@linkcode DeadLetterQueue.purge}. */
export interface PurgeOptions extends Abortable {
  /** Narrows the queue's own filter. */
  readonly where?: DeadLetterFilter;
  /** Only those that failed for the last time so many milliseconds ago, or earlier. */
  readonly olderThanMs?: number;
  /** At most so many; `next` says where to go on. @default all */
  readonly max?: number;
  /** Goes on after this dead letter: `next` of an earlier call. */
  readonly after?: string;
  /** Counts what would be done and changes nothing. @default false */
  readonly dryRun?: boolean;
}

/** Options of {@linkcode DeadLetterQueue.redrive}. */
export interface RedriveOptions extends PurgeOptions {
  /** Spread over time, so that a group that has just recovered is not flooded. @default as fast as the broker takes them */
  readonly ratePerSecond?: number;
}

/** What became of dead letters. */
export interface Swept {
  /** Redriven or removed; with `dryRun`, those that would be. */
  readonly done: number;
  /** Those that were gone when their turn came: somebody else was faster. */
  readonly gone: number;
  /** Where to go on, if it ended before the end: `max` was reached, or the signal aborted. */
  readonly next?: string;
}

const PAGE = 100;

/** The dead letters of a broker that match `filter`. */
export function deadLetterQueue(
  letters: DeadLetters,
  clock: Clock,
  filter: DeadLetterFilter,
): DeadLetterQueue {
  type Act = (deadLetterId: string) => Promise<boolean>;

  async function sweep(options: RedriveOptions, act: Act): Promise<Swept> {
    const { max = Infinity, olderThanMs = 0, ratePerSecond = Infinity, dryRun = false, signal } = options;
    if (max !== Infinity) checkRange("max", max, 1, Number.MAX_SAFE_INTEGER, true);
    checkRange("olderThanMs", olderThanMs, 0, Number.MAX_SAFE_INTEGER);
    if (ratePerSecond !== Infinity) checkRange("ratePerSecond", ratePerSecond, 0.001, 1_000_000);
    // What fails again from now on has a later time: it is not met a second time, and the end is reached.
    const now = clock.now() - olderThanMs;
    const before = Math.min(now, filter.before ?? Infinity, options.where?.before ?? Infinity);
    const matching = { ...filter, ...options.where, before };
    const start = clock.monotonic();
    const swept = { done: 0, gone: 0 };
    let after = options.after;
    for (;;) {
      const page = await letters.list(
        matching,
        after === undefined ? { limit: PAGE } : { limit: PAGE, after },
      );
      if (page.length === 0) return swept;
      for (const { deadLetterId } of page) {
        const total = swept.done + swept.gone;
        const pauseMs = dryRun ? 0 : start + (total * 1_000) / ratePerSecond - clock.monotonic();
        if (pauseMs > 0) await sleep(clock, pauseMs, signal).catch(() => {});
        if (total >= max || signal?.aborted) return after === undefined ? swept : { ...swept, next: after };
        if (dryRun || await act(deadLetterId)) swept.done++;
        else swept.gone++;
        after = deadLetterId;
      }
    }
  }

  const one = async (deadLetterId: string, act: Act): Promise<Swept> =>
    await act(deadLetterId) ? { done: 1, gone: 0 } : { done: 0, gone: 1 };

  return {
    list({ limit = 100, after } = {}) {
      checkRange("limit", limit, 1, 10_000, true);
      return letters.list(filter, after === undefined ? { limit } : { limit, after });
    },
    count: () => letters.count(filter),
    get: (deadLetterId) => letters.get(deadLetterId),
    redrive: (what = {}) =>
      typeof what === "string" ? one(what, letters.redrive) : sweep(what, letters.redrive),
    purge: (what = {}) => typeof what === "string" ? one(what, letters.remove) : sweep(what, letters.remove),
  };
}
