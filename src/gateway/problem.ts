/**
 * Errors on HTTP: every code of the error family has one status, and every error leaves as RFC 9457
 * `application/problem+json`. What only concerns the machinery behind the gateway is never told to clients.
 *
 * @module
 */
import { HTTPException } from "hono/http-exception";
import { type ErrorCode, isMillstreamError, type MillstreamError } from "../core/errors.ts";

/** The body of an error response. Further members are the error's `details`. */
export interface Problem {
  /** Stable: `urn:millstream:problem:<CODE>`. */
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  /** An {@linkcode ErrorCode}, or one of {@linkcode HttpCode} for what never got as far as the application. */
  readonly code: string;
  /** Whether the same request may succeed later without a change. */
  readonly retryable: boolean;
}

/** Codes of the gateway itself. */
export type HttpCode =
  | "FORBIDDEN"
  | "ROUTE_NOT_FOUND"
  | "METHOD_NOT_ALLOWED"
  | "UNSUPPORTED_MEDIA_TYPE"
  | "PRECONDITION_REQUIRED"
  | "TOO_MANY_STREAMS"
  | "HTTP_ERROR";

interface Kind {
  readonly status: number;
  readonly title: string;
  /** Said instead of the error's own message, and instead of its details, which may name hosts or SQL. */
  readonly hidden?: string;
}

/** Every error code on HTTP. */
export const PROBLEMS: Readonly<Record<ErrorCode, Kind>> = {
  INVALID_ARGUMENT: { status: 400, title: "Invalid argument" },
  MALFORMED_MESSAGE: { status: 400, title: "Malformed message" },
  VALIDATION_FAILED: { status: 422, title: "Validation failed" },
  UNSERIALIZABLE: { status: 422, title: "Not representable as JSON" },
  UNKNOWN_SCHEMA_VERSION: { status: 422, title: "Unknown schema version" },
  PAYLOAD_TOO_DEEP: { status: 422, title: "Payload nested too deep" },
  PAYLOAD_TOO_LARGE: { status: 413, title: "Payload too large" },
  UNKNOWN_TOPIC: { status: 404, title: "Unknown topic" },
  HANDLER_NOT_FOUND: { status: 404, title: "Unknown command or query" },
  NOT_FOUND: { status: 404, title: "Not found" },
  REFUSED: { status: 409, title: "Refused" },
  CONCURRENCY_CONFLICT: { status: 409, title: "Concurrency conflict" },
  IDEMPOTENCY_IN_PROGRESS: { status: 409, title: "Still running" },
  IDEMPOTENCY_KEY_REUSED: { status: 422, title: "Idempotency key reused" },
  NOT_CAUGHT_UP: { status: 503, title: "Not caught up yet" },
  UNSUPPORTED: { status: 501, title: "Not supported" },
  PUBLISH_INDETERMINATE: {
    status: 504,
    title: "Outcome unknown",
    hidden: "The events may or may not have been published. Send them again with the same ids",
  },
  COMMIT_INDETERMINATE: {
    status: 504,
    title: "Outcome unknown",
    hidden: "The change may or may not have been stored. Send it again with the same ids or idempotency key",
  },
  DEADLINE_EXCEEDED: { status: 504, title: "Too slow", hidden: "The work was not done in time" },
  HANDLER_TIMEOUT: { status: 504, title: "Too slow", hidden: "The handler did not finish in time" },
  CRASHED: { status: 500, title: "Given up", hidden: "The message was begun too often without an end" },
  UNAVAILABLE: {
    status: 503,
    title: "Unavailable",
    hidden: "A server behind this one cannot be reached now",
  },
  OVERLOADED: { status: 503, title: "Overloaded", hidden: "A server behind this one takes no more work now" },
  CLOSED: { status: 503, title: "Shutting down", hidden: "This server is shutting down" },
  ABORTED: { status: 503, title: "Stopped", hidden: "The work was stopped before it was done" },
  LEASE_LOST: {
    status: 409,
    title: "Overtaken",
    hidden: "Another worker took over this request. Ask for its outcome again",
  },
  REJECTED: { status: 502, title: "Rejected", hidden: "A server behind this one refused the request" },
  HANDLER_ALREADY_REGISTERED: { status: 500, title: "Internal error", hidden: "Something went wrong here" },
  INTERNAL: { status: 500, title: "Internal error", hidden: "Something went wrong here" },
};

/** The response for whatever was thrown. */
export function problemResponse(error: unknown): Response {
  if (error instanceof HTTPException) return fromHttpException(error);
  if (!isMillstreamError(error)) return response("INTERNAL", PROBLEMS.INTERNAL, "", false, {});
  const kind = PROBLEMS[error.code] ?? PROBLEMS.INTERNAL;
  return response(error.code, kind, error.message, error.retryable, error.details);
}

/** Whether clients are not told what happened, so that somebody else should be. */
export function isHidden(error: unknown): boolean {
  if (error instanceof HTTPException) return error.status >= 500;
  return !isMillstreamError(error) || PROBLEMS[error.code]?.hidden !== undefined;
}

/** The same error under another status, where a precondition of HTTP is what failed. */
export function withStatus(
  error: MillstreamError,
  status: number,
  headers: Record<string, string> = {},
): HTTPException {
  const kind = { ...PROBLEMS[error.code], status };
  const res = response(error.code, kind, error.message, error.retryable, error.details, headers);
  return new HTTPException(status as 400, { res, cause: error });
}

/** An error that only exists on HTTP, to throw. */
export function httpError(
  status: number,
  code: HttpCode,
  detail: string,
  extras: { readonly headers?: Record<string, string>; readonly details?: Record<string, unknown> } = {},
): HTTPException {
  const title = code.charAt(0) + code.slice(1).toLowerCase().replaceAll("_", " ");
  const retryable = status === 429 || status === 503;
  const res = response(code, { status, title }, detail, retryable, extras.details ?? {}, extras.headers);
  return new HTTPException(status as 400, { res, message: detail });
}

function response(
  code: ErrorCode | HttpCode,
  { status, title, hidden }: Kind,
  message: string,
  retryable: boolean,
  details: Readonly<Record<string, unknown>>,
  headers: Record<string, string> = {},
): Response {
  const type = `urn:millstream:problem:${code}`;
  const problem: Problem = { type, title, status, detail: hidden ?? message, code, retryable };
  return new Response(hidden === undefined ? withDetails(problem, details) : JSON.stringify(problem), {
    status,
    headers: {
      ...retryAfter(status, code),
      ...headers,
      "content-type": "application/problem+json",
      ...SAFE_HEADERS,
    },
  });
}

/** Sent with every response. */
export const SAFE_HEADERS: Readonly<Record<string, string>> = {
  "x-content-type-options": "nosniff",
  "cache-control": "no-store",
};

function withDetails(problem: Problem, details: Readonly<Record<string, unknown>>): string {
  try {
    return JSON.stringify({ ...details, ...problem });
  } catch {
    return JSON.stringify(problem); // details of an application's own error that are not JSON
  }
}

/** Seconds after which trying again makes sense. */
function retryAfter(status: number, code: ErrorCode | HttpCode): Record<string, string> {
  if (code === "NOT_CAUGHT_UP" || code === "IDEMPOTENCY_IN_PROGRESS") return { "retry-after": "1" };
  return status === 503 || status === 429 ? { "retry-after": "5" } : {};
}

/** Exceptions of the user's own middleware keep their status, and their response if they bring one. */
function fromHttpException(error: HTTPException): Response {
  if (error.res) return error.getResponse();
  const { status, message } = error;
  const kind = status < 500
    ? { status, title: "Request refused" }
    : { status, title: "Request failed", hidden: "Something went wrong here" };
  return response("HTTP_ERROR", kind, message || "The request was refused", false, {});
}
