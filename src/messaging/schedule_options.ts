/**
 * What is published again and again, and when.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { AnyEvent } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";

/** When something is published. Exactly one of them. */
export interface ScheduleTimes {
  /** Every so many milliseconds, counted from 1970, so that all processes mean the same moments. */
  readonly everyMs?: number;
  /** Once, at this time. */
  readonly at?: Date;
  /**
   * The first time after another one; `undefined` when there is none. Any cron library fits:
   * `next: (after) => new Cron("0 5 * * *", { timezone: "UTC" }).nextRun(after) ?? undefined`.
   */
  readonly next?: (after: Date) => Date | undefined;
}

/** A schedule as it is registered. */
export interface Schedule {
  readonly name: string;
  readonly definition: AnyEvent;
  /** The data for one time. */
  readonly data: (time: Date) => unknown;
  /**
   * The latest time after `last` and not after `now`, if there is one; and when to look again. A schedule that was never
   * looked at begins now; a single time counts also if it has passed.
   */
  readonly due: (
    last: number | undefined,
    now: number,
  ) => { readonly due: number | undefined; readonly nextAt: number };
}

/** Makes one. @throws `INVALID_ARGUMENT` */
export function schedule(name: string, times: ScheduleTimes, definition: AnyEvent, data: unknown): Schedule {
  checkName("schedule", name);
  const make = typeof data === "function" ? data as (time: Date) => unknown : (): unknown => data;
  return { name, definition, data: make, due: dueBy(name, times) };
}

function dueBy(name: string, { everyMs, at, next }: ScheduleTimes): Schedule["due"] {
  if ([everyMs, at, next].filter((given) => given !== undefined).length !== 1) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use schedule "${name}": expected exactly one of "everyMs", "at" and "next"`,
    );
  }
  if (everyMs !== undefined) {
    checkRange("everyMs", everyMs, 100, 366 * 86_400_000, true);
    return (last = Infinity, now) => {
      const latest = Math.floor(now / everyMs) * everyMs;
      return { due: latest > last ? latest : undefined, nextAt: latest + everyMs };
    };
  }
  if (at !== undefined) {
    const time = at.getTime();
    checkRange("at", time, 1, Number.MAX_SAFE_INTEGER);
    return (last = 0, now) => ({
      due: last < time && time <= now ? time : undefined,
      nextAt: last < time ? time : Infinity,
    });
  }
  return (last, now) => {
    const start = last ?? now;
    let due: number | undefined;
    for (let step = 0; step < 100_000; step++) {
      const after = due ?? start;
      const time = next!(new Date(after))?.getTime() ?? Infinity;
      if (!(time > after) || time > now) return { due, nextAt: time > after ? time : Infinity };
      due = time;
    }
    return { due, nextAt: now };
  };
}
