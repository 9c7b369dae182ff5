/**
 * Where a new group begins.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { BrokerFeatures } from "./broker.ts";

/**
 * Where a new group begins: with everything the topic still holds, with what is published from now on, or with what the
 * broker took in at or after a moment, in milliseconds since 1970 by the broker's clock.
 */
export type StartFrom = "start" | "now" | { readonly since: number };

/** Refuses what is no {@linkcode StartFrom} with `INVALID_ARGUMENT`, and a moment with `UNSUPPORTED` where it cannot be. */
export function checkStartFrom(from: StartFrom, features?: BrokerFeatures): StartFrom {
  if (from === "start" || from === "now") return from;
  if (typeof from !== "object" || from === null) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use option "from": expected "start", "now" or { since }, got ${describe(from)}`,
      { details: { option: "from" } },
    );
  }
  checkRange("from.since", from.since, 0, Number.MAX_SAFE_INTEGER);
  if (!features || features.replaySince) return from;
  throw new MillstreamError(
    "UNSUPPORTED",
    `Cannot begin a group at a moment on broker "${features.name}": ${
      features.reasons.replaySince ?? "it keeps no times"
    }`,
  );
}
