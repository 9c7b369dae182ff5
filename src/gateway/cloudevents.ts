/**
 * The CloudEvents 1.0 HTTP binding: events in structured, batch and binary mode, their data byte for byte.
 * https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
 *
 * @module
 */
import type { Context } from "hono";
import { messageFromAttributes, type ParsedEvent } from "../core/codec.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import { splitArray } from "../core/json.ts";
import type { Message } from "../core/message.ts";
import { parseTraceparent } from "../core/trace.ts";
import { isJson, mediaType, parseJson, readText, unreadable } from "./body.ts";
import type { Gate } from "./options.ts";
import { correlationId, userId } from "./request.ts";

const STRUCTURED = "application/cloudevents+json";
const BATCH = "application/cloudevents-batch+json";

/**
 * The events of a request. A missing time is now; a missing correlation id or trace context is that of the request.
 *
 * @throws 415 for any other content type, `MALFORMED_MESSAGE` for what is not JSON, `VALIDATION_FAILED` for JSON that is no event,
 * `PAYLOAD_TOO_LARGE`, `PAYLOAD_TOO_DEEP`.
 */
export async function readEvents(c: Context, gate: Gate): Promise<ParsedEvent[]> {
  const events = await readByMode(c, gate);
  const defaults = requestDefaults(c);
  return events.map(({ message, dataText }) => ({
    message: withUser({ ...defaults, ...message }, c, gate),
    dataText,
  }));
}

function readByMode(c: Context, gate: Gate): Promise<ParsedEvent[]> {
  const contentType = c.req.header("content-type");
  const type = mediaType(contentType);
  if (type === STRUCTURED) return readStructured(c, gate);
  if (type === BATCH) return readBatch(c, gate);
  const binary = c.req.header("ce-specversion") !== undefined && !type.startsWith("application/cloudevents");
  if (binary && (contentType === undefined || isJson(type))) return readBinary(c, gate, contentType);
  throw unreadable(contentType, `${STRUCTURED}, ${BATCH}, or application/json with ce- headers`);
}

async function readStructured(c: Context, gate: Gate): Promise<ParsedEvent[]> {
  return [parseOne(await readText(c, Math.min(gate.limits.maxBytes, gate.maxBodyBytes)), gate, "event")];
}

async function readBatch(c: Context, gate: Gate): Promise<ParsedEvent[]> {
  const texts = splitArray(await readText(c, gate.maxBodyBytes), gate.maxBatch);
  return texts.map((text, index) => parseOne(text, gate, `event ${index + 1} of ${texts.length}`));
}

function parseOne(text: string, gate: Gate, what: string): ParsedEvent {
  checkLength(text, gate.limits.maxBytes, what);
  const { value, spans } = parseJson(text, gate.limits.maxDepth + 1); // the envelope is a level of its own
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw notAnEvent(what, "it is not a JSON object");
  }
  const attributes = value as Record<string, unknown>;
  const span = spans.get("data");
  const dataText = span ? text.slice(...span).trim() : "null";
  return { message: toMessage(attributes, attributes.data ?? null, gate, what), dataText };
}

/** Attributes are `ce-` headers, percent-encoded; the body is the data. */
async function readBinary(c: Context, gate: Gate, contentType: string | undefined): Promise<ParsedEvent[]> {
  const attributes: Record<string, unknown> = Object.create(null); // a header may be called ce-__proto__
  c.req.raw.headers.forEach((value, name) => {
    if (name.startsWith("ce-")) attributes[name.slice(3)] = decodeHeader(name, value);
  });
  attributes.datacontenttype = contentType ?? "application/json";
  const text = await readText(c, Math.min(gate.limits.maxBytes, gate.maxBodyBytes));
  if (text.trim() === "") return [{ message: toMessage(attributes, null, gate, "event"), dataText: "null" }];
  const { value } = parseJson(text, gate.limits.maxDepth);
  return [{ message: toMessage(attributes, value, gate, "event"), dataText: text.trim() }];
}

function decodeHeader(name: string, value: string): string {
  const unquoted = /^"(?:[^"\\]|\\.)*"$/.test(value) ? value.slice(1, -1).replaceAll(/\\(.)/g, "$1") : value;
  try {
    if (/^[\x20-\x7e]*$/.test(unquoted)) return decodeURIComponent(unquoted);
  } catch {
    // Reported below, like everything else that is not percent-encoded ASCII.
  }
  throw new MillstreamError(
    "MALFORMED_MESSAGE",
    `Cannot read header "${name}": expected percent-encoded UTF-8 in ASCII`,
  );
}

function toMessage(
  attributes: Readonly<Record<string, unknown>>,
  data: unknown,
  { clock }: Gate,
  what: string,
): Message {
  const time = attributes.time ?? new Date(clock.now()).toISOString();
  try {
    return messageFromAttributes({ ...attributes, time }, data);
  } catch (error) {
    // The body was good JSON: what is wrong is the event, not the message that carried it.
    if (isMillstreamError(error, "MALFORMED_MESSAGE")) {
      throw notAnEvent(what, error.message.replace(/^[^:]*: /, ""));
    }
    throw error;
  }
}

/** What the request says about those of its events that do not say it themselves. */
function requestDefaults(c: Context): Partial<Message> {
  const correlation = correlationId(c);
  const traceparent = parseTraceparent(c.req.header("traceparent"));
  return {
    ...(correlation === undefined ? {} : { correlationId: correlation }),
    ...(traceparent === undefined ? {} : { traceparent }),
  };
}

/** Where the gateway knows its users, nobody can speak in another's name. */
function withUser(message: Message, c: Context, gate: Gate): Message {
  if (!gate.principal) return message;
  const { userId: _claimed, ...rest } = message;
  const user = userId(c, gate);
  return user === undefined ? rest : { ...rest, userId: user };
}

function notAnEvent(what: string, why: string): MillstreamError {
  return new MillstreamError("VALIDATION_FAILED", `Cannot accept ${what}: ${why}`);
}

function checkLength(text: string, maxBytes: number, what: string): void {
  if (text.length * 3 <= maxBytes || new TextEncoder().encode(text).length <= maxBytes) return;
  throw new MillstreamError("PAYLOAD_TOO_LARGE", `Cannot accept ${what}: more than ${maxBytes} bytes`, {
    details: { maxBytes },
  });
}
