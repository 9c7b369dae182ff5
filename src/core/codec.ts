/**
 * Messages to text and back: the CloudEvents 1.0 JSON format, with `data` as the last member. The text of
 * `data` is kept as it came in, so that what leaves is byte for byte what arrived.
 *
 * @module
 */
import { describe, isMillstreamError, MillstreamError } from "./errors.ts";
import { checkJson, type JsonLimits, MAX_DEPTH, scanJson, stringifyStrict } from "./json.ts";
import type { EncodedMessage, Message } from "./message.ts";
import { checkHeaderName, checkText } from "./names.ts";

/** Bounds of one message. */
export interface MessageLimits extends JsonLimits {
  /** Bytes of the encoded message in UTF-8. @default 262_144 */
  readonly maxBytes?: number;
}

/** Bytes of one encoded message allowed by default: 256 KiB, which every supported broker carries. */
export const MAX_BYTES = 262_144;

/** For what a store has: it was checked on the way in, and stays readable when limits change. */
export const NO_LIMITS: MessageLimits = { maxBytes: Infinity, maxDepth: 10_000 };

/** Attributes that are fields of {@linkcode Message}; all others are headers. */
const FIELDS: Readonly<Record<string, keyof Message>> = {
  id: "id",
  source: "source",
  type: "type",
  time: "time",
  subject: "subject",
  partitionkey: "key",
  correlationid: "correlationId",
  causationid: "causationId",
  userid: "userId",
  traceparent: "traceparent",
};
const RESERVED = new Set([
  ...Object.keys(FIELDS),
  "specversion",
  "datacontenttype",
  "schemaversion",
  "data",
  "data_base64",
]);
const USUAL: Readonly<Record<string, string>> = { specversion: "1.0", datacontenttype: "application/json" };
const JSON_TYPE = /^application\/([\w.+-]+\+)?json\s*(;|$)/i;

/**
 * The message as text, checked: nothing that passes here is refused further down.
 *
 * @param message What to encode. `data` is ignored if `dataText` is given.
 * @param dataText The JSON text of the data, kept as it is. It must have passed {@linkcode scanJson} and `JSON.parse`.
 * @throws `UNSERIALIZABLE`, `PAYLOAD_TOO_DEEP`, `PAYLOAD_TOO_LARGE` or `INVALID_ARGUMENT`.
 */
export function encodeMessage(
  message: Message,
  limits: MessageLimits = {},
  dataText?: string,
): EncodedMessage {
  const data = dataText ?? stringifyStrict(message.data, limits);
  let body = '{"specversion":"1.0"';
  for (const [attribute, field] of FIELD_LIST) {
    const value = message[field] as string | undefined;
    if (value !== undefined) body += `,"${attribute}":${JSON.stringify(checkText(attribute, value, 512))}`;
  }
  body += `,"schemaversion":${message.schemaVersion},"datacontenttype":"application/json"`;
  for (const name of Object.keys(message.headers)) {
    if (RESERVED.has(checkHeaderName(name))) throw reservedHeader(name);
    body += `,"${name}":${JSON.stringify(checkText(`header "${name}"`, message.headers[name]!, 8_192))}`;
  }
  body += `,"data":${data}}`;
  checkSize(body, limits.maxBytes ?? MAX_BYTES);
  const { id, type, key } = message;
  return key === undefined ? { id, type, body } : { id, type, key, body };
}

const FIELD_LIST = Object.entries(FIELDS);

/**
 * The message that `body` stands for. Accepts any CloudEvents 1.0 JSON event whose data is JSON.
 *
 * @throws `MALFORMED_MESSAGE`, `PAYLOAD_TOO_DEEP` or `PAYLOAD_TOO_LARGE`, and nothing else, whatever the bytes.
 */
export function decodeMessage<Data = unknown>(body: string, limits: MessageLimits = {}): Message<Data> {
  checkSize(body, limits.maxBytes ?? MAX_BYTES);
  checkJson(body, envelope(limits));
  const event = parseObject(body);
  return messageFromAttributes(event, event.data as Data ?? null as Data);
}

/** The envelope is a level of its own. */
function envelope({ maxDepth = MAX_DEPTH }: MessageLimits): JsonLimits {
  return { maxDepth: maxDepth + 1 };
}

/**
 * As {@linkcode decodeMessage} for what a store has: {@linkcode encodeMessage} made it, so what that refuses is not
 * looked for again. Anything unusual is decoded with all checks after all.
 */
export function decodeStored<Data = unknown>(body: string): Message<Data> {
  const event = parseObject(body);
  const message: Record<string, unknown> = { schemaVersion: 1 };
  const headers: Record<string, string> = {};
  for (const name in event) {
    const value = event[name];
    if (name === "data") message.data = value;
    else if (name === "schemaversion") message.schemaVersion = value;
    else if (typeof value !== "string") return decodeMessage(body, NO_LIMITS);
    else if (Object.hasOwn(FIELDS, name)) message[FIELDS[name]!] = value;
    else if (!RESERVED.has(name)) headers[name] = value;
    else if (USUAL[name] !== value) return decodeMessage(body, NO_LIMITS);
  }
  const { id, source, type, time, schemaVersion, data } = message;
  const isWhole = Number.isInteger(schemaVersion) && schemaVersion as number >= 1;
  if (!event.specversion || !id || !source || !type || !time || !isWhole || data === undefined) {
    return decodeMessage(body, NO_LIMITS);
  }
  message.headers = headers;
  return message as unknown as Message<Data>;
}

/** A decoded event with the exact text of its data. */
export interface ParsedEvent<Data = unknown> {
  readonly message: Message<Data>;
  /** The JSON text of `data` as it stood in the body, without surrounding space. */
  readonly dataText: string;
}

/** As {@linkcode decodeMessage}, and keeps the text of the data. */
export function parseEvent<Data = unknown>(body: string, limits: MessageLimits = {}): ParsedEvent<Data> {
  checkSize(body, limits.maxBytes ?? MAX_BYTES);
  const spans = scanJson(body, envelope(limits));
  const event = parseObject(body);
  const span = spans.get("data");
  const dataText = span ? body.slice(...span).trim() : "null";
  return { message: messageFromAttributes(event, event.data as Data ?? null as Data), dataText };
}

function parseObject(body: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch (cause) {
    throw malformed("not JSON", cause);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw malformed("not a JSON object");
  }
  return value as Record<string, unknown>;
}

/**
 * Builds the message from CloudEvents attributes, whatever transport they came from. A missing `time` reads as 1970:
 * who receives an event from outside fills it in first.
 *
 * @throws `MALFORMED_MESSAGE` naming the attribute that is missing or wrong.
 */
export function messageFromAttributes<Data>(
  attributes: Readonly<Record<string, unknown>>,
  data: Data,
): Message<Data> {
  if (attributes.specversion !== "1.0") {
    throw malformed(`"specversion" is ${describe(attributes.specversion)}, expected "1.0"`);
  }
  const contentType = attributes.datacontenttype ?? "application/json";
  if (
    typeof contentType !== "string" || !JSON_TYPE.test(contentType) ||
    (attributes.data_base64 ?? null) !== null
  ) {
    throw malformed(`data must be JSON, got content type ${describe(contentType)}`);
  }
  const message: Record<string, unknown> = { data };
  const headers: Record<string, string> = {};
  for (const name of Object.keys(attributes)) {
    const value = attributes[name];
    if (value === null || value === undefined) continue; // CloudEvents: null is the same as absent
    const field = Object.hasOwn(FIELDS, name) ? FIELDS[name] : undefined;
    if (field) message[field] = textAttribute(name, value, 512);
    else if (!RESERVED.has(name)) {
      headers[checkAttributeName(name)] = textAttribute(name, scalar(value), 8_192);
    }
  }
  for (const name of ["id", "source", "type"]) {
    if (message[name] === undefined) throw malformed(`attribute "${name}" is missing`);
  }
  message.time = checkTime(message.time as string | undefined);
  message.schemaVersion = schemaVersion(attributes.schemaversion);
  message.headers = headers;
  return message as unknown as Message<Data>;
}

function schemaVersion(value: unknown): number {
  const version = value === undefined || value === null ? 1 : Number(value);
  if (Number.isInteger(version) && version >= 1 && version < 2 ** 31) return version;
  throw malformed(`attribute "schemaversion" is ${describe(value)}, expected a whole number from 1`);
}

function checkTime(time: string | undefined): string {
  if (time === undefined) return new Date(0).toISOString();
  if (
    /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)$/.test(time) &&
    !Number.isNaN(Date.parse(time))
  ) return time;
  throw malformed(`attribute "time" is ${describe(time)}, expected RFC 3339`);
}

function textAttribute(name: string, value: unknown, maxLength: number): string {
  try {
    return checkText(name, value as string, maxLength);
  } catch (cause) {
    throw malformed(`attribute ${describe(name)} must be 1 to ${maxLength} characters of plain text`, cause);
  }
}

function checkAttributeName(name: string): string {
  try {
    return checkHeaderName(name);
  } catch (cause) {
    throw malformed(`attribute name ${describe(name)} must be lower-case letters and digits`, cause);
  }
}

/** CloudEvents integers and booleans in their canonical string form. */
function scalar(value: unknown): unknown {
  return typeof value === "number" || typeof value === "boolean" ? String(value) : value;
}

function malformed(why: string, cause?: unknown): MillstreamError {
  return new MillstreamError("MALFORMED_MESSAGE", `Cannot read message: ${why}`, { cause });
}

function reservedHeader(name: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${describe(name)} as header name: it is an attribute of its own`,
  );
}

function checkSize(body: string, maxBytes: number): void {
  // A UTF-16 unit takes at most three bytes and at least one: count only where the answer is open.
  if (body.length * 3 <= maxBytes) return;
  const bytes = body.length > maxBytes ? body.length : new TextEncoder().encode(body).length;
  if (bytes <= maxBytes) return;
  throw new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot accept message: ${bytes} bytes or more, the limit is ${maxBytes}. Store large data elsewhere and send a reference`,
    { details: { bytes, maxBytes } },
  );
}

/** Whether decoding failed for good because of the bytes, so that trying again is pointless. */
export function isPoison(error: unknown): boolean {
  return isMillstreamError(
    error,
    "MALFORMED_MESSAGE",
    "PAYLOAD_TOO_DEEP",
    "PAYLOAD_TOO_LARGE",
    "VALIDATION_FAILED",
    "UNKNOWN_SCHEMA_VERSION",
  );
}
