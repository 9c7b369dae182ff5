/**
 * How long to wait before trying again.
 *
 * @module
 */
import { MillstreamError } from "./errors.ts";
import type { Random } from "./ids.ts";

/** When and how often a failed attempt is repeated. */
export interface RetryPolicy {
  /** Attempts in all, the first one included. @default 10 */
  readonly attempts?: number;
  /** Upper bound of the first delay, in milliseconds. @default 200 */
  readonly baseMs?: number;
  /** What each further delay's upper bound is multiplied by. @default 2 */
  readonly factor?: number;
  /** The upper bound never grows beyond this, in milliseconds. @default 60_000 */
  readonly maxMs?: number;
}

/** A {@linkcode RetryPolicy} with nothing left open. */
export type ResolvedRetryPolicy = Required<RetryPolicy>;

/** Fills in the defaults and refuses values out of range with `INVALID_ARGUMENT`. */
export function retryPolicy(policy: RetryPolicy = {}): ResolvedRetryPolicy {
  const { attempts = 10, baseMs = 200, factor = 2, maxMs = 60_000 } = policy;
  checkRange("retry.attempts", attempts, 1, 1_000_000, true);
  checkRange("retry.baseMs", baseMs, 0, 86_400_000);
  checkRange("retry.factor", factor, 1, 100);
  checkRange("retry.maxMs", maxMs, 0, 30 * 86_400_000);
  return { attempts, baseMs, factor, maxMs };
}

/**
 * The delay before attempt number `attempt + 1`, in whole milliseconds: exponential with full jitter, that is
 * anywhere between 0 and the bound, so that many failing clients do not come back together.
 * Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
 *
 * @param attempt The attempt that just failed, counted from 1.
 */
export function backoffDelay(
  attempt: number,
  policy: ResolvedRetryPolicy,
  random: Random = Math.random,
): number {
  const growth = Math.min(policy.factor ** (attempt - 1), Number.MAX_VALUE); // 0 ms times infinity would be no number
  const bound = Math.min(policy.maxMs, policy.baseMs * growth);
  return Math.floor(random() * bound);
}

/** Refuses a number option outside [min, max] with `INVALID_ARGUMENT` naming the option. */
export function checkRange(option: string, value: number, min: number, max: number, whole = false): void {
  if (typeof value === "number" && value >= min && value <= max && (!whole || Number.isInteger(value))) {
    return;
  }
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "${option}": expected a ${
      whole ? "whole " : ""
    }number from ${min} to ${max}, got ${value}`,
    { details: { option, min, max } },
  );
}
