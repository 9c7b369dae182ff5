/**
 * What may be chosen about a consumer, checked before anything runs.
 *
 * @module
 */
import { checkRange, type ResolvedRetryPolicy, type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkStartFrom, type StartFrom } from "../ports/start_from.ts";

/** Options of a consumer group's member. */
export interface ConsumerOptions {
  /** Messages handled at the same time by this process. Messages of one key are never handled at the same time. @default 8 */
  readonly concurrency?: number;
  /** When and how often a failed message is tried again before it becomes a dead letter. */
  readonly retry?: RetryPolicy;
  /** Other policies for some errors. The first rule that fits decides; what it leaves open is that of `retry`. */
  readonly retryOn?: readonly RetryRule[];
  /** A try that takes longer fails with `HANDLER_TIMEOUT` and its signal aborts, in milliseconds. @default 60_000 */
  readonly timeoutMs?: number;
  /**
   * How long a message stays with a process that says nothing, in milliseconds. A living process says so by itself;
   * after a crash another one takes over when this has passed. @default 15_000
   */
  readonly leaseMs?: number;
  /** Where a new group begins. @default "start" */
  readonly from?: StartFrom;
  /**
   * How often a message that came back from a process that died may be begun again. When it has taken so many more
   * processes with it, or was left without a word so often, it becomes a dead letter with the error `CRASHED`. Such
   * messages are handled one at a time, and from the second time on alone, so that their neighbours are not taken for
   * them. Needs `features.countsStarts` of the broker. @default 3
   */
  readonly crashes?: number;
  /**
   * At most so many messages begin in so many milliseconds, in this process: a group of three processes handles three
   * times as many. @default no limit
   */
  readonly rate?: Rate;
  /** Stops taking messages while what the handlers depend on is away. @default never */
  readonly breaker?: BreakerOptions;
}

/** A policy for some errors. */
export interface RetryRule extends RetryPolicy {
  /** The error's `code` or `name`, or a function that says whether it is meant. `attempts: 1` means: never again. */
  readonly error: string | ((error: Error) => boolean);
}

/** `max` in each `perMs` milliseconds. */
export interface Rate {
  readonly max: number;
  readonly perMs: number;
}

/** When a consumer pauses by itself, and for how long. */
export interface BreakerOptions {
  /** So many failures one after another, without a success between them, open it. */
  readonly failures: number;
  /** How long it stays open, in milliseconds. Then one message is tried: its success closes it. @default 30_000 */
  readonly pauseMs?: number;
  /**
   * Which failures count. @default those of the infrastructure: `UNAVAILABLE`, `OVERLOADED`, `DEADLINE_EXCEEDED`,
   * `HANDLER_TIMEOUT`, and errors of the network
   */
  readonly when?: (error: Error) => boolean;
}

/** {@linkcode ConsumerOptions} with nothing left open. */
export interface ResolvedConsumerOptions {
  readonly concurrency: number;
  readonly retry: ResolvedRetryPolicy;
  readonly retryOn: ReadonlyArray<
    { readonly error: RetryRule["error"]; readonly policy: ResolvedRetryPolicy }
  >;
  readonly timeoutMs: number;
  readonly leaseMs: number;
  readonly from: StartFrom;
  readonly crashes: number;
  readonly rate: Rate | undefined;
  readonly breaker: BreakerOptions | undefined;
}

/** Fills in the defaults and refuses values out of range with `INVALID_ARGUMENT`. */
export function consumerOptions(options: ConsumerOptions): ResolvedConsumerOptions {
  const { concurrency = 8, timeoutMs = 60_000, leaseMs = 15_000, from = "start", crashes = 3 } = options;
  checkRange("concurrency", concurrency, 1, 10_000, true);
  checkRange("timeoutMs", timeoutMs, 1, 86_400_000);
  checkRange("leaseMs", leaseMs, 100, 86_400_000);
  checkRange("crashes", crashes, 1, 1_000_000, true);
  checkStartFrom(from);
  const { rate, breaker } = options;
  if (rate) {
    checkRange("rate.max", rate.max, 1, 1_000_000_000, true);
    checkRange("rate.perMs", rate.perMs, 1, 86_400_000);
  }
  if (breaker) {
    checkRange("breaker.failures", breaker.failures, 1, 1_000_000, true);
    checkRange("breaker.pauseMs", breaker.pauseMs ?? 30_000, 1, 86_400_000);
  }
  const retry = retryPolicy(options.retry);
  const retryOn = (options.retryOn ?? []).map((rule) => retryRule(rule, retry));
  return { concurrency, retry, retryOn, timeoutMs, leaseMs, from, crashes, rate, breaker };
}

function retryRule(
  { error, ...own }: RetryRule,
  retry: ResolvedRetryPolicy,
): ResolvedConsumerOptions["retryOn"][0] {
  if (typeof error === "function" || (typeof error === "string" && error !== "")) {
    return { error, policy: retryPolicy({ ...retry, ...own }) };
  }
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "retryOn": expected an error's name, its code or a function as "error", got ${
      describe(error)
    }`,
    { details: { option: "retryOn.error" } },
  );
}
