/**
 * JavaScript values on their way in: each becomes the text that Postgres reads, without a type. The server takes the
 * type from where the placeholder stands, so every client sends the same, prepared or not.
 *
 * @module
 */
import { MillstreamError } from "../../core/errors.ts";
import type { SqlValue } from "../../ports/sql.ts";

/** What goes over the wire for one placeholder. */
export type Encoded = string | null;

/** Placeholders of one statement, at most: the protocol counts them in 16 bits, and clients keep one for themselves. */
const MAX_VALUES = 65_533;

/**
 * Encodes the values of one statement.
 *
 * @throws `INVALID_ARGUMENT` for what has no place in SQL: objects, functions, invalid dates, NUL characters. The
 * message names the placeholder, never the value.
 */
export function encodeValues(values: readonly SqlValue[]): Encoded[] {
  if (values.length <= MAX_VALUES) return values.map((value, at) => encode(value, `$${at + 1}`));
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot run statement: expected at most ${MAX_VALUES} values, got ${values.length}`,
    { details: { max: MAX_VALUES } },
  );
}

function encode(value: unknown, where: string): Encoded {
  switch (typeof value) {
    case "string":
      // Refused here, since the server's complaint comes as late as from within a transaction it then aborts.
      if (value.includes("\0")) throw unfit(where, "a string with a NUL character");
      return value;
    case "number":
    case "bigint":
    case "boolean":
      return String(value);
    case "undefined":
      return null;
    case "object":
      return encodeObject(value, where);
    default:
      throw unfit(where, `a ${typeof value}`);
  }
}

function encodeObject(value: object | null, where: string): Encoded {
  if (value === null) return null;
  if (Array.isArray(value)) return encodeArray(value, where);
  if (value instanceof Uint8Array) return encodeBytes(value);
  if (value instanceof Date) return encodeDate(value, where);
  throw unfit(where, "an object; turn it into JSON text first");
}

/** Every element is quoted, so that none can be taken for NULL, a delimiter or an array of its own. */
function encodeArray(array: readonly unknown[], where: string): string {
  const items = Array.from(array, (item, at) => {
    const text = encode(item, `${where}[${at}]`);
    if (text === null) return "NULL";
    return Array.isArray(item) ? text : `"${escaped(text)}"`;
  });
  return `{${items.join(",")}}`;
}

/** Two plain passes, the first of which is rarely needed, take half the time of one regular expression. */
function escaped(text: string): string {
  return (text.includes("\\") ? text.replaceAll("\\", "\\\\") : text).replaceAll('"', '\\"');
}

function encodeBytes(bytes: Uint8Array): string {
  let hex = "\\x";
  for (const byte of bytes) hex += HEX[byte];
  return hex;
}

/** Postgres knows neither the sign of ISO 8601's long years nor a year 0. */
function encodeDate(date: Date, where: string): string {
  if (Number.isNaN(date.getTime())) throw unfit(where, "an invalid Date");
  const year = date.getUTCFullYear();
  const iso = date.toISOString();
  if (year >= 0 && year <= 9999 && year !== 0) return iso;
  const rest = iso.slice(iso.indexOf("-", 1));
  const digits = String(year > 0 ? year : 1 - year).padStart(4, "0");
  return `${digits}${rest}${year > 0 ? "" : " BC"}`;
}

const HEX: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, "0"));

function unfit(where: string, got: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot bind ${where}: expected a string, number, bigint, boolean, Date, Uint8Array, array or null, got ${got}`,
    { details: { placeholder: where } },
  );
}
