/**
 * What RabbitMQ and its driver say, in Millstream's errors.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";

const NOT_OPENED = /Expected ConnectionOpenOk; got <ConnectionClose/;

/** The error for what went wrong while nothing was sent that could have been accepted. */
export function failure(what: string, thrown: unknown): MillstreamError {
  if (isMillstreamError(thrown)) return thrown;
  const cause = toError(thrown);
  const code = codeOf(cause);
  const message = `Cannot ${what}: ${cause.message.replace(/\s+/g, " ").trim()}`;
  if (!NOT_OPENED.test(cause.message)) return new MillstreamError(code, message, { cause });
  // The driver does not say why: mostly a virtual host that is not there, but it may be a server that is about to stop.
  const why = `${message}: the server refused the virtual host`;
  return new MillstreamError("REJECTED", why, { cause, retryable: true });
}

/** What the server's reply codes mean (AMQP 0-9-1, and RabbitMQ's use of them). */
function codeOf({ code, message }: Error & { readonly code?: unknown }): ErrorCode {
  if (tooLarge(message) !== undefined) return "PAYLOAD_TOO_LARGE";
  if (code === 404 || /\b404\b.*NOT.FOUND/.test(message)) return "NOT_FOUND";
  if (/ACCESS.REFUSED|PRECONDITION.FAILED|NOT.ALLOWED|Expected amqp:/.test(message)) return "REJECTED";
  return code === 403 || code === 406 || code === 530 ? "REJECTED" : "UNAVAILABLE";
}

/** The limit in bytes that a message broke, if that is what the server says. */
export function tooLarge(message: string): number | undefined {
  const limit = /message size \d+ is larger than configured max size (\d+)/.exec(message)?.[1];
  return limit === undefined ? undefined : Number(limit);
}

/** The error for a publish that may or may not have happened. */
export function indeterminate(topic: string, why: string, cause?: unknown): MillstreamError {
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot tell whether the messages to "${topic}" were accepted: ${why}. Publish them again with the same ids`,
    { cause },
  );
}
