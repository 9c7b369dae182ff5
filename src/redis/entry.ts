/**
 * Messages as stream entries. An entry has one field: its name holds id, type and key, its value the body. One field
 * reads half again as fast as six, the value stays plain CloudEvents JSON for readers in other languages, and nobody
 * has to parse a body to know what it is.
 *
 * Entries of a group's retry stream have a field `state` before that: attempt, first failure and number of redrives.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import type { EncodedMessage } from "../core/message.ts";

/** Name of the field with the state of a message that comes again. */
export const STATE = "state";

/** What happened to a message in a group so far. */
export interface EntryState {
  /** The attempt this delivery is, from 1. */
  readonly attempt: number;
  /** Wall clock of the first failure in milliseconds; 0 if there was none. */
  readonly firstFailedAt: number;
  /** How often it came back from the dead letters. */
  readonly redrives: number;
}

// deno-lint-ignore no-control-regex
const HEADER = /^[^\u0000-\u001f]+\t[^\u0000-\u001f]+\t[^\u0000-\u001f]*$/;

/**
 * The field name for a message.
 *
 * @throws `INVALID_ARGUMENT` if id, type or key is empty or has control characters.
 */
export function encodeHeader(message: EncodedMessage): string {
  const header = `${message.id}\t${message.type}\t${message.key ?? ""}`;
  if (HEADER.test(header) && typeof message.body === "string") return header;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot publish message ${
      describe(message.id)
    }: expected id, type, key and body as text without control characters`,
  );
}

/**
 * The message in an entry's fields (without `state`). Entries that something else wrote come out as a message with the
 * last value as body; whatever it is, consumers see it and can give it up.
 *
 * @param entryId Stands in for the id where none can be found.
 */
export function decodeMessageFields(entryId: string, fields: readonly string[]): EncodedMessage {
  const [header = "", body = ""] = fields;
  const first = header.indexOf("\t");
  const second = header.indexOf("\t", first + 1);
  if (first < 0 || second < 0) return decodeForeign(entryId, fields);
  const id = header.slice(0, first);
  const type = header.slice(first + 1, second);
  return second === header.length - 1
    ? { id, type, body }
    : { id, type, key: header.slice(second + 1), body };
}

/** Reads what {@linkcode STATE} holds. */
export function decodeState(text: string | undefined): EntryState {
  const [attempt = 1, firstFailedAt = 0, redrives = 0] = (text ?? "").split(" ").map((part) =>
    Number(part) || 0
  );
  return { attempt: Math.max(1, attempt), firstFailedAt, redrives };
}

/** The key by which the server keeps the order of an entry, if it has one: that of its header. */
export function laneKey(header: string): string | undefined {
  return /^[^\t]*\t[^\t]*\t([^\t]+)$/.exec(header)?.[1];
}

function decodeForeign(entryId: string, fields: readonly string[]): EncodedMessage {
  const body = fields[fields.length - 1] ?? "";
  const event = parseObject(body);
  const text = (name: string, otherwise: string): string => {
    const value = event[name];
    return typeof value === "string" && value !== "" ? value : otherwise;
  };
  const message = { id: text("id", entryId), type: text("type", "unknown"), body };
  const key = text("partitionkey", "");
  return key === "" ? message : { ...message, key };
}

function parseObject(body: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(body);
    return typeof value === "object" && value !== null ? value as Record<string, unknown> : {};
  } catch {
    return {};
  }
}
