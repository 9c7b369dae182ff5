/**
 * What keeps a consumer from taking all that it could: a rate, and a breaker that opens while what the handlers depend
 * on is away (Michael Nygard, "Release It!", 2007: Circuit Breaker).
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { isMillstreamError } from "../core/errors.ts";
import type { BreakerOptions, Rate } from "./consumer_options.ts";

/** How many may be taken. */
export interface Limiter {
  /** How many now. */
  allowance(): number;
  /** So many were taken. */
  took(count: number): void;
  /** In how many milliseconds there may be more. */
  readonly waitMs: number;
}

/** `rate.max` in any window of `rate.perMs`, however the windows are laid. */
export function rateLimiter(clock: Clock, rate: Rate): Limiter {
  let taken: Array<{ readonly at: number; readonly count: number }> = [];
  let inWindow = 0;

  function forget(): void {
    const since = clock.monotonic() - rate.perMs;
    if (taken.length === 0 || taken[0]!.at > since) return;
    taken = taken.filter(({ at }) => at > since);
    inWindow = taken.reduce((sum, { count }) => sum + count, 0);
  }

  return {
    allowance() {
      forget();
      return rate.max - inWindow;
    },
    took(count) {
      if (count === 0) return;
      taken.push({ at: clock.monotonic(), count });
      inWindow += count;
    },
    get waitMs() {
      const [oldest] = taken;
      return oldest ? Math.max(1, oldest.at + rate.perMs - clock.monotonic()) : 0;
    },
  };
}

/** Counts failures. Open means: take nothing. */
export interface Breaker {
  readonly isOpen: boolean;
  /** In how many milliseconds one message may be tried; 0 when it is closed or the time has come. */
  readonly waitMs: number;
  succeeded(): void;
  /** Whether it opened by this failure. */
  failed(error: Error): boolean;
}

/** A closed breaker. */
export function circuitBreaker(
  clock: Clock,
  { failures, pauseMs = 30_000, when = isInfrastructure }: BreakerOptions,
): Breaker {
  let inARow = 0;
  let openedAt: number | undefined;
  return {
    get isOpen() {
      return openedAt !== undefined;
    },
    get waitMs() {
      return openedAt === undefined ? 0 : Math.max(0, openedAt + pauseMs - clock.monotonic());
    },
    succeeded() {
      inARow = 0;
      openedAt = undefined;
    },
    failed(error) {
      if (!when(error)) {
        inARow = 0; // a failure of the message's own: what the handler depends on has answered
        openedAt = undefined;
        return false;
      }
      const opens = openedAt !== undefined || ++inARow >= failures;
      if (opens) openedAt = clock.monotonic();
      return opens;
    },
  };
}

const NETWORK_CODE = /^(ECONN|ETIMEDOUT|EPIPE|EHOST|ENET|EAI_|ENOTFOUND|UND_ERR_)/;

/** Whether something else than the message is to blame. */
function isInfrastructure(error: Error): boolean {
  if (isMillstreamError(error)) {
    return isMillstreamError(error, "UNAVAILABLE", "OVERLOADED", "DEADLINE_EXCEEDED", "HANDLER_TIMEOUT");
  }
  const { code, cause } = error as { readonly code?: unknown; readonly cause?: unknown };
  if (typeof code === "string" && NETWORK_CODE.test(code)) return true;
  return cause instanceof Error && isInfrastructure(cause); // as `fetch` has it
}
