/**
 * W3C Trace Context: reading and continuing a `traceparent` (https://www.w3.org/TR/trace-context/).
 *
 * @module
 */

const TRACEPARENT = /^00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})$/;

/** The value if it is a valid version 00 `traceparent`, and `undefined` if not: a bad header never fails a message. */
export function parseTraceparent(value: string | null | undefined): string | undefined {
  return value && TRACEPARENT.test(value) ? value : undefined;
}

/** A `traceparent` for work caused by `parent`: same trace and flags, new span id. A new trace if there is no parent. */
export function childTraceparent(parent?: string): string {
  const [, traceId = hex(16), , flags = "00"] = TRACEPARENT.exec(parent ?? "") ?? [];
  return `00-${traceId}-${hex(8)}-${flags}`;
}

function hex(bytes: number): string {
  return Array.from(
    crypto.getRandomValues(new Uint8Array(bytes)),
    (byte) => byte.toString(16).padStart(2, "0"),
  ).join("");
}
