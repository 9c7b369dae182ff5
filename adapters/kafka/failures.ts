/**
 * What a client's errors mean to the caller.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";

/** The protocol's own names of errors, which all clients keep. https://kafka.apache.org/protocol#protocol_error_codes */
const MEANING: Readonly<Record<string, ErrorCode>> = {
  MESSAGE_TOO_LARGE: "PAYLOAD_TOO_LARGE",
  RECORD_LIST_TOO_LARGE: "PAYLOAD_TOO_LARGE",
  UNKNOWN_TOPIC_OR_PARTITION: "NOT_FOUND",
  TOPIC_AUTHORIZATION_FAILED: "REJECTED",
  GROUP_AUTHORIZATION_FAILED: "REJECTED",
  CLUSTER_AUTHORIZATION_FAILED: "REJECTED",
  SASL_AUTHENTICATION_FAILED: "REJECTED",
  UNSUPPORTED_SASL_MECHANISM: "REJECTED",
  POLICY_VIOLATION: "REJECTED",
  INVALID_TOPIC_EXCEPTION: "REJECTED",
  INVALID_REPLICATION_FACTOR: "REJECTED",
  INVALID_PARTITIONS: "REJECTED",
  INVALID_CONFIG: "REJECTED",
  INVALID_SESSION_TIMEOUT: "REJECTED",
  THROTTLING_QUOTA_EXCEEDED: "OVERLOADED",
};

/** Errors that say that a record was not appended, whatever was tried before. */
const REFUSALS: ReadonlySet<ErrorCode> = new Set<ErrorCode>(["PAYLOAD_TOO_LARGE", "REJECTED"]);

/** The error as a caller understands it. What says nothing better is `UNAVAILABLE`. */
export function asKafkaError(what: string, thrown: unknown): MillstreamError {
  if (isMillstreamError(thrown)) return thrown;
  const error = toError(thrown);
  const code = meaning(error) ?? "UNAVAILABLE";
  return new MillstreamError(code, `Cannot ${what}: ${deepest(error).message}`, { cause: error });
}

/** As {@linkcode asKafkaError} for records that were sent: only a refusal is certain. */
export function asAppendError(thrown: unknown, partitions: number): MillstreamError {
  const error = asKafkaError("append to Kafka", thrown);
  const certain = REFUSALS.has(error.code) && (partitions === 1 || error.code === "REJECTED");
  if (certain || isMillstreamError(thrown)) return error;
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot tell whether Kafka accepted the messages: ${
      deepest(toError(thrown)).message
    }. Publish again with the same ids`,
    { cause: thrown, details: REFUSALS.has(error.code) ? { refused: error.code } : {} },
  );
}

function meaning(error: Error): ErrorCode | undefined {
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 10; depth++) {
    const { type, apiId } = at as { type?: unknown; apiId?: unknown };
    for (const name of [type, apiId]) if (typeof name === "string" && MEANING[name]) return MEANING[name];
    if (at.name === "KafkaJSSASLAuthenticationError") return "REJECTED";
    const { errors } = at as { errors?: unknown };
    const inner = Array.isArray(errors) ? errors.map((e) => e instanceof Error ? meaning(e) : undefined) : [];
    const found = inner.find((code) => code !== undefined);
    if (found) return found;
    at = at.cause;
  }
  return undefined;
}

function deepest(error: Error): Error {
  let at = error;
  for (let depth = 0; at.cause instanceof Error && depth < 10; depth++) at = at.cause;
  return at.message ? at : error;
}
