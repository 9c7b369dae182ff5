/**
 * Position tokens: a place in the store as clients carry it from a command to a query.
 *
 * @module
 */
import { describe, MillstreamError } from "./errors.ts";

/** The token of a position. */
export function formatToken(position: bigint): string {
  return position.toString();
}

/** The position of a token. @throws `INVALID_ARGUMENT` if it is none. */
export function parseToken(token: string): bigint {
  if (typeof token === "string" && /^\d{1,18}$/.test(token)) return BigInt(token);
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${describe(token)} as position token: expected up to 18 digits`,
  );
}
