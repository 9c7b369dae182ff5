/**
 * What becomes of a message whose try failed: another try, or the dead letters.
 *
 * @module
 */
import { backoffDelay } from "../core/backoff.ts";
import { isPoison } from "../core/codec.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { Delivery } from "../ports/broker.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { ConsumerParts } from "./consumer.ts";
import type { ResolvedConsumerOptions } from "./consumer_options.ts";
import type { Settlement } from "./settlements.ts";

/** Decides, and says so to the observer. */
export function afterFailure(
  parts: ConsumerParts,
  options: ResolvedConsumerOptions,
  delivery: Delivery,
  error: Error,
): Settlement {
  const { clock, observer, random } = parts;
  const { topic, group, id, attempt } = delivery;
  const { retryOn, retry } = options;
  const rule = retryOn.find((one) => isMeant(one.error, error));
  // A rule that names the error knows better than what is said about it in general. Bytes do not change by trying.
  const isFinal = isPoison(error) || (!rule && saysFinal(error));
  const policy = rule?.policy ?? retry;
  if (isFinal || attempt >= policy.attempts) return givenUp(parts, delivery, error);
  const delayMs = backoffDelay(attempt, policy, random);
  observer({ kind: "retried", topic, group, id, attempt, delayMs, error });
  return { kind: "retry", delivery, delayMs, failure: describeFailure(error, clock.now()) };
}

/** To the dead letters. */
export function givenUp({ clock, observer }: ConsumerParts, delivery: Delivery, error: Error): Settlement {
  const { topic, group, id, attempt } = delivery;
  observer({ kind: "dead-lettered", topic, group, id, attempt, error });
  return { kind: "dead", delivery, failure: describeFailure(error, clock.now()) };
}

/** Whether a rule's `error` means this one. A function that throws means nothing. */
function isMeant(meant: string | ((error: Error) => boolean), error: Error): boolean {
  if (typeof meant === "string") {
    return error.name === meant || (error as { readonly code?: unknown }).code === meant;
  }
  try {
    return meant(error);
  } catch {
    return false;
  }
}

/** Whether trying again is pointless: a refusal, or an error that says so itself (`retryable: false`). */
function saysFinal(error: Error): boolean {
  if (isMillstreamError(error, "REFUSED", "UNSUPPORTED", "INVALID_ARGUMENT")) return true;
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

/** The error of a try that took too long. */
export function timedOut({ group, id }: Delivery, timeoutMs: number): MillstreamError {
  return new MillstreamError(
    "HANDLER_TIMEOUT",
    `Cannot wait longer for the handler of group "${group}": message "${id}" took more than ${timeoutMs} ms`,
    { details: { timeoutMs } },
  );
}

/** The error of a message that was begun too often without an end. */
export function crashed({ group, id }: Delivery, crashes: number): MillstreamError {
  return new MillstreamError(
    "CRASHED",
    `Cannot handle message "${id}" in group "${group}": ${crashes} times it was begun again and never settled`,
    { details: { crashes } },
  );
}
