/**
 * Idempotent operations: one run per key, its result for everyone who asks with the same key.
 *
 * @module
 */
import { type Clock, sleep, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { IdempotencyKeys } from "../ports/idempotency.ts";

/** What identifies an operation, and how long things last. */
export interface RunOnceOptions {
  readonly key: string;
  /** What the request was: a hash of its payload. The same key with another fingerprint is refused. */
  readonly fingerprint: string;
  /** How long the result is kept, in milliseconds. @default 86_400_000 */
  readonly ttlMs?: number;
  /** How long a dead caller blocks the key, in milliseconds. A living one renews by itself. @default 30_000 */
  readonly leaseMs?: number;
  /** How long to wait for another caller's result, in milliseconds. @default 0 */
  readonly waitMs?: number;
  readonly clock?: Clock;
}

/** The result, and whether it came from an earlier run. */
export interface RunOnceResult {
  readonly result: string;
  readonly replayed: boolean;
}

/** A run, as its operation sees it. */
export interface OperationClaim {
  /**
   * Keeps the result in the transaction of the operation's effects, so that both commit or neither does. What the
   * operation returns is then not kept again.
   *
   * @param keys The port of that transaction.
   * @throws `LEASE_LOST` if another caller took over.
   */
  complete(keys: IdempotencyKeys, result: string): Promise<void>;
}

/**
 * Runs `operation` unless it ran before under the same key. Concurrent callers wait up to `waitMs` and get the first
 * one's result. If it rejects, nothing is kept and the next caller may run it. A caller that lost its lease gets its
 * signal aborted and `LEASE_LOST`, and its result is not kept.
 *
 * @param operation Returns the result as text.
 * @throws `IDEMPOTENCY_KEY_REUSED`, `IDEMPOTENCY_IN_PROGRESS`, `LEASE_LOST`, or what the operation threw.
 */
export async function runOnce(
  keys: IdempotencyKeys,
  options: RunOnceOptions,
  operation: (signal: AbortSignal, claim: OperationClaim) => Promise<string>,
): Promise<RunOnceResult> {
  const { key, fingerprint, ttlMs = 86_400_000, leaseMs = 30_000, waitMs = 0, clock = systemClock } = options;
  const until = clock.monotonic() + waitMs;
  for (;;) {
    const begun = await keys.begin(key, fingerprint, leaseMs);
    if (begun.state === "done") return { result: begun.result, replayed: true };
    if (begun.state === "mismatch") throw reused();
    if (begun.state === "started") {
      const result = await runWithLease({ keys, key, epoch: begun.epoch, leaseMs, ttlMs, clock }, operation);
      return { result, replayed: false };
    }
    const leftMs = until - clock.monotonic();
    if (leftMs <= 0) throw inProgress();
    if (keys.changed) await keys.changed(key, { waitMs: Math.min(leftMs, 1_000) });
    else await sleep(clock, 50);
  }
}

interface Claim {
  readonly keys: IdempotencyKeys;
  readonly key: string;
  readonly epoch: number;
  readonly leaseMs: number;
  readonly ttlMs: number;
  readonly clock: Clock;
}

async function runWithLease(
  claim: Claim,
  operation: (signal: AbortSignal, claim: OperationClaim) => Promise<string>,
): Promise<string> {
  const { keys, key, epoch, leaseMs, ttlMs, clock } = claim;
  const lost = new AbortController();
  let ended = false;
  let cancel = scheduleRenewal();

  function scheduleRenewal(): () => void {
    if (ended) return () => {};
    return clock.after(leaseMs / 3, () => {
      keys.renew(key, epoch, leaseMs).then(
        (kept) => kept ? void (cancel = scheduleRenewal()) : lost.abort(leaseLost()),
        () => {
          cancel = scheduleRenewal(); // the store was away for a moment; `complete` has the last word
        },
      );
    });
  }

  let result: string;
  let kept = false;
  try {
    result = await operation(lost.signal, {
      async complete(inside, text) {
        await inside.complete(key, epoch, text, ttlMs);
        kept = true;
      },
    });
  } catch (failure) {
    await keys.abandon(key, epoch).catch(() => {}); // the lease runs out by itself
    throw lost.signal.aborted ? lost.signal.reason : failure;
  } finally {
    ended = true; // also if a renewal is under way
    cancel();
  }
  if (!kept) await keys.complete(key, epoch, result, ttlMs);
  return result;
}

function reused(): MillstreamError {
  return new MillstreamError(
    "IDEMPOTENCY_KEY_REUSED",
    "Cannot use this idempotency key: it was used before with another payload",
  );
}

function inProgress(): MillstreamError {
  return new MillstreamError(
    "IDEMPOTENCY_IN_PROGRESS",
    "Cannot answer yet: the first call with this idempotency key is still running",
  );
}

function leaseLost(): MillstreamError {
  return new MillstreamError("LEASE_LOST", "Cannot go on: another caller took over this idempotency key");
}
