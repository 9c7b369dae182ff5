/**
 * Whose fault a failed publish is.
 *
 * @module
 */
import { isMillstreamError } from "../core/errors.ts";

/** Whether the broker will not take it at another time either: an error that says of itself that it is final. */
export function isRefusal(failure: Error): boolean {
  return (isMillstreamError(failure) || "retryable" in failure) &&
    (failure as { readonly retryable?: unknown }).retryable === false;
}
