/**
 * One try of one delivery: runs the handler under a timeout and decides what becomes of the message.
 *
 * @module
 */
import { backoffDelay } from "../core/backoff.ts";
import { untilAborted } from "../core/clock.ts";
import { isPoison } from "../core/codec.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import type { Delivery } from "../ports/broker.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { HeldDelivery } from "./held.ts";
import type { ConsumerParts, ResolvedConsumerOptions } from "./consumer.ts";

/** Handles one delivery, or rejects. */
export type HandleOne = (delivery: Delivery, signal: AbortSignal) => Promise<void>;

/** What becomes of a delivery. */
export type Settlement =
  | { readonly kind: "ack" | "release"; readonly delivery: Delivery }
  | {
    readonly kind: "retry";
    readonly delivery: Delivery;
    readonly delayMs: number;
    readonly failure: Failure;
  }
  | { readonly kind: "dead"; readonly delivery: Delivery; readonly failure: Failure };

/** Runs the handler once. Never rejects. */
export async function settle(
  parts: ConsumerParts,
  options: ResolvedConsumerOptions,
  handle: HandleOne,
  { delivery, abort }: HeldDelivery,
): Promise<Settlement> {
  const cancel = parts.clock.after(
    options.timeoutMs,
    () => abort.abort(timedOut(delivery, options.timeoutMs)),
  );
  try {
    await untilAborted(handle(delivery, abort.signal), abort.signal);
    return { kind: "ack", delivery };
  } catch (thrown) {
    // A shutdown or a lost lease is not the message's fault: it goes back with the same attempt.
    const stopped = abort.signal.aborted && !isMillstreamError(abort.signal.reason, "HANDLER_TIMEOUT");
    return stopped ? { kind: "release", delivery } : afterFailure(parts, options, delivery, thrown);
  } finally {
    cancel();
  }
}

function afterFailure(
  { clock, observer, random }: ConsumerParts,
  { retry }: ResolvedConsumerOptions,
  delivery: Delivery,
  thrown: unknown,
): Settlement {
  const error = toError(thrown);
  const failure = describeFailure(error, clock.now());
  const { topic, group, id, attempt } = delivery;
  if (isFinal(error) || attempt >= retry.attempts) {
    observer({ kind: "dead-lettered", topic, group, id, attempt, error });
    return { kind: "dead", delivery, failure };
  }
  const delayMs = backoffDelay(attempt, retry, random);
  observer({ kind: "retried", topic, group, id, attempt, delayMs, error });
  return { kind: "retry", delivery, delayMs, failure };
}

/** Whether trying again is pointless: bad bytes, a refusal, or an error that says so itself (`retryable: false`). */
function isFinal(error: Error): boolean {
  if (isPoison(error) || isMillstreamError(error, "REFUSED", "UNSUPPORTED", "INVALID_ARGUMENT")) return true;
  return !isMillstreamError(error) && (error as { retryable?: unknown }).retryable === false;
}

/** The failure as it is kept with a dead letter. */
export function describeFailure(error: Error, at: number): Failure {
  // Whoever throws may have put anything there.
  const failure = {
    error: String(isMillstreamError(error) ? error.code : error.name).slice(0, 200),
    message: String(error.message).slice(0, 2_000),
    at,
  };
  return error.stack ? { ...failure, stack: String(error.stack).slice(0, 8_000) } : failure;
}

function timedOut(delivery: Delivery, timeoutMs: number): MillstreamError {
  return new MillstreamError(
    "HANDLER_TIMEOUT",
    `Cannot wait longer for the handler of group "${delivery.group}": message "${delivery.id}" took more than ${timeoutMs} ms`,
    { details: { timeoutMs } },
  );
}
