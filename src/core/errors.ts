/**
 * The one closed family of errors. Every failure a caller can act on is a {@linkcode MillstreamError} whose
 * `code` says what went wrong and whose `retryable` says whether the same call may succeed later.
 *
 * @module
 */

/** What went wrong, as a literal to switch on. Codes are stable public API; messages are for people. */
export type ErrorCode =
  /** An argument or option is out of range; nothing was sent anywhere. */
  | "INVALID_ARGUMENT"
  /** The data does not match its schema. `details.issues` lists the paths. */
  | "VALIDATION_FAILED"
  /** The data cannot survive JSON unchanged. `details.path` says where. */
  | "UNSERIALIZABLE"
  /** The encoded message is larger than the limit. */
  | "PAYLOAD_TOO_LARGE"
  /** The data nests deeper than the limit. */
  | "PAYLOAD_TOO_DEEP"
  /** Stored or received bytes are not a message. */
  | "MALFORMED_MESSAGE"
  /** A message has a schema version this process has no upcaster for. */
  | "UNKNOWN_SCHEMA_VERSION"
  /** The topic is not declared in this application. */
  | "UNKNOWN_TOPIC"
  /** No handler is registered for the command, query or definition. */
  | "HANDLER_NOT_FOUND"
  /** A second handler was registered where exactly one may be. */
  | "HANDLER_ALREADY_REGISTERED"
  /** The domain said no. `details.reason` is the application's own code. */
  | "REFUSED"
  /** Another writer was faster: expected and current version differ. */
  | "CONCURRENCY_CONFLICT"
  /** The stream, saga or dead letter does not exist. */
  | "NOT_FOUND"
  /** The publish may or may not have happened. Retry with the same id. */
  | "PUBLISH_INDETERMINATE"
  /** The commit may or may not have happened. Retry with the same ids. */
  | "COMMIT_INDETERMINATE"
  /** The broker or store cannot be reached or is not ready; nothing happened. */
  | "UNAVAILABLE"
  /** The broker or store refused for lack of memory, disk or connections; nothing happened. */
  | "OVERLOADED"
  /** The broker or store refused the call for good. */
  | "REJECTED"
  /** The caller's deadline passed before the work was done. */
  | "DEADLINE_EXCEEDED"
  /** The caller's signal aborted the work before it was done. */
  | "ABORTED"
  /** Another worker took over; what this one did since is not recorded. */
  | "LEASE_LOST"
  /** A handler ran longer than its timeout. */
  | "HANDLER_TIMEOUT"
  /** A message was begun again and again and never settled: it may kill or hang the process that handles it. */
  | "CRASHED"
  /** The idempotency key was used before with another payload. */
  | "IDEMPOTENCY_KEY_REUSED"
  /** The first call with this idempotency key is still running. */
  | "IDEMPOTENCY_IN_PROGRESS"
  /** The read model did not reach the asked position in time. */
  | "NOT_CAUGHT_UP"
  /** What was asked is not possible with this store, broker or runtime. */
  | "UNSUPPORTED"
  /** The object was closed before the call. */
  | "CLOSED"
  /** Something broke that none of the codes above describes. `cause` has it. */
  | "INTERNAL";

/** Extras of a {@linkcode MillstreamError}. */
export interface ErrorExtras {
  /** Whether the same call may succeed later without a change. @default by code */
  readonly retryable?: boolean;
  /** The error underneath. */
  readonly cause?: unknown;
  /** Facts for programs: versions, paths, limits. Must be JSON. */
  readonly details?: Readonly<Record<string, unknown>>;
}

const RETRYABLE: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  "CONCURRENCY_CONFLICT",
  "PUBLISH_INDETERMINATE",
  "COMMIT_INDETERMINATE",
  "UNAVAILABLE",
  "OVERLOADED",
  "DEADLINE_EXCEEDED",
  "HANDLER_TIMEOUT",
  "IDEMPOTENCY_IN_PROGRESS",
  "NOT_CAUGHT_UP",
]);

/** The only error class that Millstream throws on purpose. */
export class MillstreamError extends Error {
  override readonly name = "MillstreamError";
  /** What went wrong. */
  readonly code: ErrorCode;
  /** Whether the same call may succeed later without a change. */
  readonly retryable: boolean;
  /** Facts for programs. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: ErrorCode, message: string, extras: ErrorExtras = {}) {
    super(message, extras.cause === undefined ? undefined : { cause: extras.cause });
    this.code = code;
    this.retryable = extras.retryable ?? RETRYABLE.has(code);
    this.details = extras.details ?? {};
  }
}

/** Whether `error` is a {@linkcode MillstreamError}, of one of `codes` if any are given. */
export function isMillstreamError(error: unknown, ...codes: ErrorCode[]): error is MillstreamError {
  // Compared by name and shape as well, so that two copies of the package in one process understand each other.
  const own = error instanceof MillstreamError ||
    (error instanceof Error && error.name === "MillstreamError" && "code" in error);
  return own && (codes.length === 0 || codes.includes((error as MillstreamError).code));
}

/** Turns whatever was thrown (a string, `undefined`, an object) into an `Error`, unchanged if it is one. */
export function toError(thrown: unknown): Error {
  if (thrown instanceof Error) return thrown;
  return new Error(
    typeof thrown === "string" ? thrown : `Thrown value was not an Error: ${describe(thrown)}`,
    {
      cause: thrown,
    },
  );
}

/**
 * The domain's way to say no: a handler or `decide` throws what this returns, or returns it.
 * The command fails with `REFUSED` and is not retried.
 *
 * @param reason The application's own code, for example `ORDER_EXISTS`.
 * @param message What a person should read. Defaults to the reason.
 */
export function refuse(reason: string, message: string = reason): MillstreamError {
  return new MillstreamError("REFUSED", message, { details: { reason } });
}

/** A short, quoted rendering of any value for use in error messages. Never throws. */
export function describe(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 80 ? `${value.slice(0, 80)}…` : value);
  if (typeof value === "bigint") return `${value}n`;
  if (typeof value === "function") return `function ${value.name}`;
  try {
    return (JSON.stringify(value) ?? String(value)).slice(0, 80);
  } catch {
    return Object.prototype.toString.call(value);
  }
}
