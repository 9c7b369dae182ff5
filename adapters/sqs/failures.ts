/**
 * What errors of SQS mean to the caller.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";

/** An entry of a batch that was refused. */
export interface FailedEntry {
  readonly Id: string;
  readonly Code: string;
  readonly Message?: string;
  readonly SenderFault?: boolean;
}

const PATTERNS: ReadonlyArray<readonly [RegExp, ErrorCode]> = [
  [/NonExistentQueue|QueueDoesNotExist/, "NOT_FOUND"],
  [/TooLong|TooLarge|BatchRequestTooLong|message must be shorter/i, "PAYLOAD_TOO_LARGE"],
  [/Throttl|TooManyRequests|RequestLimit|OverLimit|SlowDown/i, "OVERLOADED"],
  [
    /AccessDenied|NotAuthorized|InvalidClientTokenId|SignatureDoesNotMatch|UnrecognizedClient|ExpiredToken|MissingAuth|InvalidSecurity/,
    "REJECTED",
  ],
];

/** SQS answered that it will not. */
export function refused(action: string, status: number, text: string): MillstreamError {
  const { type, message } = parseFault(text);
  const code = codeOf(`${type} ${message}`) ??
    (status === 403 || status === 401
      ? "REJECTED"
      : status === 429 || status === 503
      ? "OVERLOADED"
      : status >= 500
      ? "UNAVAILABLE"
      : "REJECTED");
  const unknown = status >= 500 && status !== 503;
  return new MillstreamError(code, `Cannot ${action} in SQS: ${message || type || `status ${status}`}`, {
    details: { action, status, type, unknown },
  });
}

/** SQS did not answer. `details.unknown` says whether it may have done what was asked. */
export function notAnswered(action: string, cause: unknown): MillstreamError {
  const unsent = /ECONNREFUSED|ENOTFOUND|EAI_AGAIN|ConnectionRefused|refused|dns|Unable to connect|resolve/i
    .test(wordsOf(cause));
  return new MillstreamError("UNAVAILABLE", `Cannot ${action} in SQS: ${deepestMessage(cause)}`, {
    cause,
    details: { action, unknown: !unsent },
  });
}

/** The error of an entry of a batch. */
export function entryError(action: string, { Code, Message = "" }: FailedEntry): MillstreamError {
  const code = codeOf(`${Code} ${Message}`) ??
    (/Internal|Unavailable/.test(Code) ? "UNAVAILABLE" : "REJECTED");
  return new MillstreamError(code, `Cannot ${action} in SQS: ${Message || Code}`, {
    details: { action, type: Code },
  });
}

/** Any error of a call, also of a client of the caller's own. */
export function asSqsError(action: string, thrown: unknown): MillstreamError {
  if (isMillstreamError(thrown)) return thrown;
  const error = toError(thrown) as Error & { $metadata?: { httpStatusCode?: number } };
  const status = error.$metadata?.httpStatusCode;
  if (status === undefined) return notAnswered(action, error);
  return refused(action, status, JSON.stringify({ __type: error.name, message: error.message }));
}

/** As {@linkcode asSqsError} for messages that were sent: what is not refused may have been accepted. */
export function asSendError(topic: string, thrown: unknown): MillstreamError {
  const error = asSqsError("publish", thrown);
  if (error.details.unknown !== true) return error;
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot tell whether topic "${topic}" accepted the messages: ${error.message}. Publish again with the same ids`,
    { cause: error, details: { topic } },
  );
}

function codeOf(text: string): ErrorCode | undefined {
  return PATTERNS.find(([pattern]) => pattern.test(text))?.[1];
}

function parseFault(text: string): { type: string; message: string } {
  try {
    const fault = JSON.parse(text) as { __type?: string; message?: string; Message?: string };
    return {
      type: String(fault.__type ?? "").split("#").pop()!,
      message: String(fault.message ?? fault.Message ?? "").slice(0, 500),
    };
  } catch {
    return { type: "", message: text.slice(0, 200) };
  }
}

function wordsOf(thrown: unknown): string {
  const words: string[] = [];
  for (let at: unknown = thrown, depth = 0; at instanceof Error && depth < 10; at = at.cause, depth++) {
    words.push(at.message, String((at as { code?: unknown }).code ?? ""));
  }
  return words.join(" ");
}

function deepestMessage(thrown: unknown): string {
  let at = toError(thrown);
  for (let depth = 0; at.cause instanceof Error && depth < 10; depth++) at = at.cause;
  return at.message || toError(thrown).message;
}
