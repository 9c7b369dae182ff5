/**
 * What NATS and its client say, in Millstream's errors.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";

/** An error of the JetStream API. */
export interface ApiError {
  readonly code: number;
  readonly err_code?: number;
  readonly description?: string;
}

/** Codes of the JetStream API that the adapter acts on (nats-server, `server/errors.json`). */
export const API = {
  consumerNotFound: 10_014,
  messageNotFound: 10_037,
  messageTooLarge: 10_054,
  streamExists: 10_058,
  streamNotFound: 10_059,
  storeFailed: 10_077,
} as const;

/** The error for what the JetStream API answered. */
export function apiFailure(
  what: string,
  { code, err_code, description = "no reason given" }: ApiError,
): MillstreamError {
  return new MillstreamError(codeOf(code, err_code ?? 0, description), `Cannot ${what}: ${description}`, {
    details: { code, apiCode: err_code ?? 0 },
  });
}

function codeOf(code: number, apiCode: number, description: string): ErrorCode {
  if (apiCode === API.messageTooLarge) return "PAYLOAD_TOO_LARGE";
  if (apiCode === API.streamNotFound || apiCode === API.consumerNotFound || apiCode === API.messageNotFound) {
    return "NOT_FOUND";
  }
  if (/maximum (messages|bytes)|insufficient|resource|storage/i.test(description)) return "OVERLOADED";
  return code >= 500 ? "UNAVAILABLE" : "REJECTED";
}

/** The error for a call that got no answer, or none that makes sense. */
export function failure(what: string, thrown: unknown): MillstreamError {
  if (isMillstreamError(thrown)) return thrown;
  const cause = toError(thrown);
  const refused = /Authorization|authentication|permissions? violation/i.test(
    `${cause.name} ${cause.message}`,
  );
  return new MillstreamError(refused ? "REJECTED" : "UNAVAILABLE", `Cannot ${what}: ${cause.message}`, {
    cause,
  });
}

/** Whether nobody was there to hear a request: nothing can have happened. */
export function wasHeardByNobody(thrown: unknown): boolean {
  const { name, message, cause } = toError(thrown) as Error & { readonly cause?: unknown };
  return name === "NoRespondersError" || /no responders/i.test(message) ||
    (cause instanceof Error && cause.name === "NoRespondersError");
}
