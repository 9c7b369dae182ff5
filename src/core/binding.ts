/**
 * Messages on protocols that have headers, by the CloudEvents protocol bindings: in *structured* mode the whole event is
 * the body, in *binary* mode its attributes are headers and the body is the data alone. How a header is named and
 * escaped is each protocol's own; here are the attributes and the body.
 *
 * Source: CloudEvents 1.0.2, the bindings for AMQP, NATS and Kafka (https://github.com/cloudevents/spec).
 *
 * @module
 */
import { NO_LIMITS, parseEvent } from "./codec.ts";
import { describe, MillstreamError } from "./errors.ts";
import type { EncodedMessage } from "./message.ts";

/** Which of the two ways of the CloudEvents bindings messages go out. Both are always understood. */
export type BindingMode = "structured" | "binary";

/** Refuses what is no {@linkcode BindingMode} with `INVALID_ARGUMENT`. */
export function checkBindingMode(mode: BindingMode): void {
  if (mode === "structured" || mode === "binary") return;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "mode": expected "structured" or "binary", got ${describe(mode)}`,
    { details: { option: "mode" } },
  );
}

/** A message as headers and body. */
export interface BoundMessage {
  /** The protocol's content type. */
  readonly contentType: string;
  /** CloudEvents attributes by their names without a prefix. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly body: string;
}

/** What came in: as {@linkcode BoundMessage}, from anybody. */
export interface UnboundMessage {
  readonly contentType: string | undefined;
  /** CloudEvents attributes by their names without a prefix. */
  readonly attributes: Readonly<Record<string, string>>;
  readonly body: string;
}

const STRUCTURED = "application/cloudevents+json";

/**
 * Writes a message for the wire. In structured mode the body is the message's own, byte for byte, and what a broker or
 * a person wants to see without parsing it (id, type and key) stands beside it.
 *
 * @throws `MALFORMED_MESSAGE` in binary mode, if the body is no event.
 */
export function bindMessage(message: EncodedMessage, mode: BindingMode): BoundMessage {
  const { id, type, key, body } = message;
  const own = key === undefined ? { id, type } : { id, type, partitionkey: key };
  if (mode === "structured") return { contentType: `${STRUCTURED}; charset=utf-8`, attributes: own, body };
  const { message: event, dataText } = parseEvent(body, NO_LIMITS);
  const { source, time, subject, correlationId, causationId, userId, traceparent, schemaVersion } = event;
  const attributes: Record<string, string> = { specversion: "1.0", ...own, source, time };
  const optional = {
    subject,
    correlationid: correlationId,
    causationid: causationId,
    userid: userId,
    traceparent,
  };
  for (const [name, value] of Object.entries(optional)) if (value !== undefined) attributes[name] = value;
  attributes.schemaversion = String(schemaVersion);
  return { contentType: "application/json", attributes: { ...attributes, ...event.headers }, body: dataText };
}

/**
 * Reads what came from the wire, in either mode. What is no event at all becomes a message whose body cannot be decoded,
 * so that its consumers give it up with the bytes it came with; this never throws.
 *
 * @param fallbackId The id of what brings none, such as the broker's own for it.
 */
export function unbindMessage(unbound: UnboundMessage, fallbackId: string): EncodedMessage {
  const { attributes, contentType = "", body } = unbound;
  const structured = contentType.toLowerCase().startsWith(STRUCTURED);
  if (!structured && attributes.specversion !== undefined) return envelope(attributes, contentType, body);
  // Whoever writes structured messages need not repeat their attributes beside them.
  const known = attributes.id !== undefined && attributes.type !== undefined
    ? attributes
    : attributesOf(body);
  return withKey({ id: known.id || fallbackId, type: known.type ?? "", body }, known.partitionkey);
}

/** The attributes in the order in which `encodeMessage` writes them, so that our own events come back byte for byte. */
const ORDER = [
  "specversion",
  "id",
  "source",
  "type",
  "time",
  "subject",
  "partitionkey",
  "correlationid",
  "causationid",
  "userid",
  "traceparent",
  "schemaversion",
  "datacontenttype",
];

function envelope(
  attributes: Readonly<Record<string, string>>,
  contentType: string,
  data: string,
): EncodedMessage {
  const all: Record<string, string> = { ...attributes, datacontenttype: contentType || "application/json" };
  if (/^application\/json\s*(;|$)/i.test(contentType)) all.datacontenttype = "application/json";
  const rest = Object.keys(all).filter((name) => !ORDER.includes(name) && name !== "data");
  let body = "";
  for (const name of [...ORDER, ...rest]) {
    const value = all[name];
    if (value === undefined) continue;
    const number = name === "schemaversion" && /^[1-9]\d{0,8}$/.test(value);
    body += `${body === "" ? "{" : ","}${JSON.stringify(name)}:${number ? value : JSON.stringify(value)}`;
  }
  body += `,"data":${data === "" ? "null" : data}}`;
  return withKey({ id: all.id ?? "", type: all.type ?? "", body }, all.partitionkey);
}

function attributesOf(body: string): Readonly<Record<string, string>> {
  const attributes: Record<string, string> = {};
  try {
    const event = JSON.parse(body) as Record<string, unknown> | null;
    for (const name of ["id", "type", "partitionkey"]) {
      const value = event?.[name];
      if (typeof value === "string") attributes[name] = value;
    }
  } catch {
    // no event: its consumers will say so
  }
  return attributes;
}

function withKey(message: EncodedMessage, key: string | undefined): EncodedMessage {
  return key === undefined ? message : { ...message, key };
}
