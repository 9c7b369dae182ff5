/**
 * What requests carry beside their body: query parameters, and who and what is behind them.
 *
 * @module
 */
import type { Context } from "hono";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { Gate } from "./options.ts";

/** Refuses addresses whose percent-encoding no two parties would read the same way. */
export function checkUrl(url: string): void {
  if (!url.includes("%")) return;
  try {
    decodeURIComponent(url);
  } catch {
    throw new MillstreamError("INVALID_ARGUMENT", "Cannot read address: its percent-encoding is not UTF-8");
  }
}

/** The query string. */
export function searchParams(c: Context): URLSearchParams {
  const { url } = c.req;
  const start = url.indexOf("?");
  return new URLSearchParams(start < 0 ? "" : url.slice(start + 1).split("#")[0]);
}

/** A parameter that may be given once. Empty is the same as absent. */
export function parameter(params: URLSearchParams, name: string): string | undefined {
  const values = params.getAll(name);
  if (values.length > 1) throw invalid(name, values.join(), "it once");
  return values[0] || undefined;
}

/** A whole number from `min` to `max`. */
export function wholeNumber(
  params: URLSearchParams,
  name: string,
  min: number,
  max: number,
): number | undefined {
  const text = parameter(params, name);
  if (text === undefined) return undefined;
  const value = /^\d{1,16}$/.test(text) ? Number(text) : NaN;
  if (value >= min && value <= max) return value;
  throw invalid(name, text, `a whole number from ${min} to ${max}`);
}

/** Names separated by commas or given several times; at most `max`. */
export function names(params: URLSearchParams, name: string, max: number): string[] | undefined {
  const values = params.getAll(name).flatMap((value) => value.split(",")).map((value) => value.trim()).filter(
    Boolean,
  );
  if (values.length > max) throw invalid(name, `${values.length} values`, `at most ${max}`);
  for (const value of values) checkText(`parameter "${name}"`, value, 512);
  return values.length === 0 ? undefined : values;
}

/** The error for a parameter. */
export function invalid(name: string, got: string, expected: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use parameter "${name}": expected ${expected}, got ${describe(got)}`,
    { details: { parameter: name } },
  );
}

/** The `X-Correlation-Id` header. @throws `INVALID_ARGUMENT` unless it is 1 to 255 printable ASCII characters. */
export function correlationId(c: Context): string | undefined {
  return printable(c, "X-Correlation-Id");
}

/** The user behind a request, as the configured `principal` sees it. */
export function userId(c: Context, gate: Gate): string | undefined {
  const user = gate.principal?.(c.req.raw);
  return user === undefined ? undefined : checkText("user id", user, 512);
}

/** A header of 1 to 255 printable ASCII characters. */
export function printable(c: Context, header: string): string | undefined {
  const value = c.req.header(header);
  if (value === undefined || /^[\x20-\x7e]{1,255}$/.test(value)) return value;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use header "${header}": expected 1 to 255 printable ASCII characters`,
    { details: { header } },
  );
}
