/**
 * What names and keys may contain. Checked before any I/O, so that nothing a caller passes can end up as SQL text,
 * part of a Redis key or an unescaped log line.
 *
 * @module
 */
import { describe, MillstreamError } from "./errors.ts";

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$/;
const ATTRIBUTE = /^[a-z0-9]{1,40}$/;
// deno-lint-ignore no-control-regex
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/;

/** Refuses anything but 1 to 200 letters, digits, dots, dashes and underscores that start with a letter or digit. */
export function checkName(kind: string, name: string): string {
  if (typeof name === "string" && NAME.test(name)) return name;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${
      describe(name)
    } as ${kind}: expected 1 to 200 of A-Z a-z 0-9 . _ - starting with a letter or digit`,
    { details: { kind } },
  );
}

/** Refuses text that is empty, too long, or that some broker or store could not carry unchanged. */
export function checkText(kind: string, text: string, maxLength = 255): string {
  if (typeof text === "string" && text.length > 0 && text.length <= maxLength && isPlainText(text)) {
    return text;
  }
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${
      describe(text)
    } as ${kind}: expected 1 to ${maxLength} characters without control characters or lone surrogates`,
    { details: { kind, maxLength } },
  );
}

/** Refuses header names that are not CloudEvents extension attribute names. */
export function checkHeaderName(name: string): string {
  if (ATTRIBUTE.test(name)) return name;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${describe(name)} as header name: expected 1 to 40 lower-case letters and digits`,
    { details: { kind: "header" } },
  );
}

/** Whether `text` has neither control characters nor lone surrogates. */
export function isPlainText(text: string): boolean {
  return !CONTROL.test(text) && !hasLoneSurrogate(text);
}

/** Whether half of a surrogate pair stands alone in `text`, which UTF-8 cannot carry. */
export function hasLoneSurrogate(text: string): boolean {
  return /[\ud800-\udfff]/.test(text) &&
    /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(text);
}
