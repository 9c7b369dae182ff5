/**
 * What a failed Redis command means to its caller.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError } from "../core/errors.ts";

/** Replies after which the server is not ready, and nothing was done. */
const UNAVAILABLE: ReadonlySet<string> = new Set([
  "LOADING",
  "READONLY",
  "CLUSTERDOWN",
  "MASTERDOWN",
  "TRYAGAIN",
  "BUSY",
  "NOREPLICAS",
]);
/** Replies after which the server had no memory or disk, and nothing was done. */
const OVERLOADED: ReadonlySet<string> = new Set(["OOM", "MISCONF"]);

/** The error for an error reply: the command was refused. */
export function replyError(command: string, cause: Error): MillstreamError {
  const reply = unwrap(cause.message);
  const kind = reply.split(" ", 1)[0] ?? "";
  const code: ErrorCode = UNAVAILABLE.has(kind)
    ? "UNAVAILABLE"
    : OVERLOADED.has(kind)
    ? "OVERLOADED"
    : "REJECTED";
  const text = `Cannot run "${command}": Redis replied "${reply.slice(0, 300)}"`;
  return new MillstreamError(code, text, { details: { reply } });
}

/** The error for a command that was sent and whose reply never came. */
export function lostReply(command: string, why: string, cause?: Error): MillstreamError {
  const text = `Cannot tell whether Redis ran "${command}": ${why}`;
  return new MillstreamError("PUBLISH_INDETERMINATE", text, { cause });
}

/** Whether the server does not know the stream or its group (any more). */
export function isMissingGroup(error: unknown): boolean {
  if (!isMillstreamError(error, "REJECTED")) return false;
  const { reply } = error.details;
  return typeof reply === "string" && /^(NOGROUP|UNBLOCKED)/.test(reply);
}

/** Whether the server could not be reached or was not ready, so that the same call may succeed later. */
export function isOutage(error: unknown): error is MillstreamError {
  return isMillstreamError(error, "UNAVAILABLE", "OVERLOADED", "PUBLISH_INDETERMINATE");
}

/** For calls that may simply be repeated, a lost reply is an outage like any other. */
export function asUnavailable(error: unknown): unknown {
  if (!isMillstreamError(error, "PUBLISH_INDETERMINATE")) return error;
  return new MillstreamError("UNAVAILABLE", error.message, { cause: error });
}

/** Redis 6 wraps the error of a command inside a script: `ERR Error running script (...): @user_script:3: -OOM ...`. */
function unwrap(reply: string): string {
  return /^ERR Error running script.*?: -?([A-Z]+ .*)$/s.exec(reply)?.[1] ?? reply;
}
