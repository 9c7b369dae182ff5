/**
 * Middleware for commands and queries: what stands around every handler.
 *
 * @example
 * ```ts ignore
 * app.middleware(logged((line) => console.log(line)))
 *   .middleware(authorized(({ userId }) => userId !== undefined))
 *   .middleware(deadline(5_000))
 *   .middleware(retried({ attempts: 3 }))
 *   .queryMiddleware(cached({ get: (key) => cache.get(key), set: (key, answer) => void cache.set(key, answer) }));
 * ```
 * @module
 */
import { backoffDelay, checkRange, type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import { type Clock, sleep, systemClock, withDeadline } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, refuse, toError } from "../core/errors.ts";
import { fingerprint, type Json, stableJson } from "../core/fingerprint.ts";
import type { Message } from "../core/message.ts";
import { runOnce } from "../idempotency/idempotent.ts";
import type { DispatchResult } from "../messaging/context.ts";
import type { IdempotencyKeys } from "../ports/idempotency.ts";
import type { CommandMiddleware } from "./command_bus.ts";
import type { QueryMiddleware } from "./query_bus.ts";

/**
 * Lets a command pass only if `allowed` says so.
 *
 * @param allowed Returns or resolves to `false` to refuse with `REFUSED`, `details.reason` `"FORBIDDEN"`; may also
 * throw an error of its own.
 */
export function authorized(
  allowed: (command: Message) => boolean | Promise<boolean>,
): CommandMiddleware {
  return (next) => async (command, signal) => {
    if (await allowed(command)) return await next(command, signal);
    throw refuse("FORBIDDEN", `Cannot run command "${command.type}": it is not allowed`);
  };
}

/** What {@linkcode logged} reports of a command. Never its data. */
export interface CommandLog {
  readonly type: string;
  readonly id: string;
  readonly correlationId: string | undefined;
  readonly userId: string | undefined;
  readonly durationMs: number;
  /** Absent if it succeeded. */
  readonly error?: Error;
}

/** Reports each command when it has ended. What `log` throws is ignored. */
export function logged(
  log: (entry: CommandLog) => void,
  { clock = systemClock }: { readonly clock?: Clock } = {},
): CommandMiddleware {
  return (next) => async (command, signal) => {
    const { type, id, correlationId, userId } = command;
    const started = clock.monotonic();
    const report = (outcome: { readonly error?: Error }): void => {
      try {
        log({ type, id, correlationId, userId, durationMs: clock.monotonic() - started, ...outcome });
      } catch {
        // A log that fails must not fail the command.
      }
    };
    try {
      const result = await next(command, signal);
      report({});
      return result;
    } catch (thrown) {
      report({ error: toError(thrown) });
      throw thrown;
    }
  };
}

/** Options of {@linkcode retried}. */
export interface RetriedOptions extends RetryPolicy {
  /** Which failures to try again. @default conflicts, and what the store says can succeed later */
  readonly on?: (failure: unknown) => boolean;
  readonly clock?: Clock;
  readonly random?: () => number;
}

/** Failures after which nothing happened, or after which the same id makes the second time harmless. */
function isTransient(failure: unknown): boolean {
  return isMillstreamError(failure, "CONCURRENCY_CONFLICT", "UNAVAILABLE", "OVERLOADED");
}

/**
 * Runs a command again, under the same id, when it failed for a reason that passes. Aggregates do so by themselves for
 * conflicts.
 */
export function retried(options: RetriedOptions = {}): CommandMiddleware {
  const { on = isTransient, clock = systemClock, random = Math.random, ...policy } = options;
  const retry = retryPolicy({ attempts: 3, baseMs: 20, maxMs: 1_000, ...policy });
  return (next) => async (command, signal) => {
    for (let attempt = 1;; attempt++) {
      try {
        return await next(command, signal);
      } catch (failure) {
        if (attempt >= retry.attempts || signal.aborted || !on(failure)) throw failure;
        await sleep(clock, backoffDelay(attempt, retry, random), signal);
      }
    }
  };
}

/**
 * Gives up waiting for a command after `ms` milliseconds with `DEADLINE_EXCEEDED`, and aborts its handler's signal. It
 * may have taken effect: send it again with the same id to learn.
 */
export function deadline(
  ms: number,
  { clock = systemClock }: { readonly clock?: Clock } = {},
): CommandMiddleware {
  checkRange("ms", ms, 1, 86_400_000);
  return (next) => async (command, signal) => {
    const late = new AbortController();
    const error = new MillstreamError(
      "DEADLINE_EXCEEDED",
      `Cannot wait longer for command "${command.type}": it took more than ${ms} ms and may still take effect`,
      { details: { id: command.id, timeoutMs: ms } },
    );
    const both = AbortSignal.any([signal, late.signal]);
    return await withDeadline(clock, ms, next(command, both), () => {
      late.abort(error);
      return error;
    });
  };
}

/** Options of {@linkcode once}. */
export interface OnceOptions {
  /** How long a result is kept, in milliseconds. @default 86_400_000 */
  readonly ttlMs?: number;
  /** How long to wait for the first caller's result, in milliseconds. @default 10_000 */
  readonly waitMs?: number;
  readonly clock?: Clock;
}

/**
 * Runs a command once per id, whoever dispatches it and wherever: later callers get the first one's result, concurrent
 * ones wait for it, and another payload under the same id is refused with `IDEMPOTENCY_KEY_REUSED`. Failures are not
 * kept: the next caller tries again.
 *
 * The result is kept after the handler's effects were committed, so a crash between the two runs the handler again; use
 * `app.handle(command, { once: true }, ...)` where both must commit together. Aggregates need neither.
 *
 * @param keys `store.idempotency`.
 */
export function once(keys: IdempotencyKeys, options: OnceOptions = {}): CommandMiddleware {
  const { waitMs = 10_000, ...others } = options;
  return (next) => async (command, signal) => {
    const key = `command/${command.type}/${command.id}`;
    const print = await fingerprint(command.data as Json);
    const { result } = await runOnce(keys, { key, fingerprint: print, waitMs, ...others }, async (lost) => {
      const outcome = await next(command, AbortSignal.any([signal, lost]));
      return JSON.stringify(outcome);
    });
    return JSON.parse(result) as DispatchResult;
  };
}

/** Where {@linkcode cached} keeps answers: a map, a cache of the platform, Redis. */
export interface AnswerCache {
  get(key: string): unknown;
  /** Keeps it for as long as it likes. */
  set(key: string, answer: unknown): unknown;
}

/**
 * Answers queries from a cache. A query that waits for a position (`after`) is never answered from it, and renews what
 * it holds.
 *
 * @param keyOf What tells two queries apart; `undefined` for those that are not cached. @default type and parameters
 */
export function cached(
  cache: AnswerCache,
  keyOf: (type: string, params: unknown) => string | undefined = (type, params) =>
    `${type} ${stableJson(params as Json)}`,
): QueryMiddleware {
  return (next) => async (query) => {
    const key = keyOf(query.type, query.params);
    if (key === undefined) return await next(query);
    const known = query.after === undefined ? await cache.get(key) : undefined;
    if (known !== undefined) return known;
    const answer = await next(query);
    await cache.set(key, answer);
    return answer;
  };
}
