/**
 * Messages in SQS. CloudEvents has no binding for it; this one follows those for Kafka and AMQP: attributes are message
 * attributes that begin with `ce_`, beside `content-type`. SQS allows ten attributes: in binary mode what is more goes
 * into one of them, `ce_more`, as JSON.
 *
 * @module
 */
import { type BindingMode, bindMessage, unbindMessage } from "../../src/core/binding.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";

/** A message attribute. */
export interface SqsAttribute {
  readonly DataType: string;
  readonly StringValue?: string;
}

/** A message as SQS hands it out, of what is used here. */
export interface SqsMessage {
  readonly MessageId: string;
  readonly ReceiptHandle: string;
  readonly Body?: string;
  readonly Attributes?: Readonly<Record<string, string>>;
  readonly MessageAttributes?: Readonly<Record<string, SqsAttribute>>;
}

/** What travels with a message besides itself. */
export interface Notes {
  /** The coming attempt. */
  readonly attempt: number;
  readonly redrives: number;
  /** 0 if it never failed. */
  readonly firstFailedAt: number;
  /** Not to be handed out before, in milliseconds since 1970; 0 if at once. */
  readonly notBefore: number;
}

/** The part of an entry of `SendMessageBatch` that says what the message is. */
export interface SqsContent {
  readonly MessageBody: string;
  readonly MessageAttributes: Readonly<Record<string, SqsAttribute>>;
}

export const NO_NOTES: Notes = { attempt: 1, redrives: 0, firstFailedAt: 0, notBefore: 0 };

const PREFIX = "ce_";
const MORE = "ce_more";
const CONTENT_TYPE = "content-type";
const ENCODING = "content-encoding";
const NOTES = "millstream";
const MAX_ATTRIBUTES = 10;
/** What JSON text may hold and SQS refuses. Control characters are always escaped in JSON. */
const UNSUPPORTED = /[\ufffe\uffff]/;

/** The content of an entry. */
export function toContent(
  message: EncodedMessage,
  mode: BindingMode,
  notes: Notes = NO_NOTES,
  more: Readonly<Record<string, string>> = {},
): SqsContent {
  const { attributes, contentType, body } = bindMessage(message, mode);
  const own: Record<string, string> = { [CONTENT_TYPE]: contentType, ...more };
  if (UNSUPPORTED.test(body)) own[ENCODING] = "base64";
  if (notes !== NO_NOTES) own[NOTES] = JSON.stringify(notes);
  const room = MAX_ATTRIBUTES - Object.keys(own).length;
  const names = Object.keys(attributes);
  const fitting = names.length <= room ? names : names.slice(0, room - 1);
  for (const name of fitting) own[PREFIX + name] = attributes[name]!;
  const rest = names.slice(fitting.length).map((name) => [name, attributes[name]]);
  if (rest.length > 0) own[MORE] = JSON.stringify(Object.fromEntries(rest));
  return {
    MessageBody: own[ENCODING] ? toBase64(body) : body,
    MessageAttributes: Object.fromEntries(
      Object.entries(own).filter(([, value]) => value !== "")
        .map(([name, StringValue]) => [name, { DataType: "String", StringValue }]),
    ),
  };
}

/** The message, whoever sent it. What brings no id has SQS's own. */
export function fromSqs({ MessageId, Body = "", MessageAttributes = {} }: SqsMessage): EncodedMessage {
  const attributes: Record<string, string> = Object.create(null); // an attribute may be called ce___proto__
  for (const [name, { StringValue }] of Object.entries(MessageAttributes)) {
    if (StringValue === undefined || !name.startsWith(PREFIX)) continue;
    if (name === MORE) Object.assign(attributes, parseObject(StringValue));
    else attributes[name.slice(PREFIX.length)] = StringValue;
  }
  const contentType = MessageAttributes[CONTENT_TYPE]?.StringValue;
  const body = MessageAttributes[ENCODING]?.StringValue === "base64" ? fromBase64(Body) : Body;
  return unbindMessage({ contentType, attributes, body }, MessageId);
}

/** What travelled with a message besides itself. */
export function notesOf({ MessageAttributes }: SqsMessage): Notes {
  const text = MessageAttributes?.[NOTES]?.StringValue;
  return text === undefined ? NO_NOTES : { ...NO_NOTES, ...parseObject(text) };
}

/** The text of an attribute of one's own. */
export function attributeOf({ MessageAttributes }: SqsMessage, name: string): string | undefined {
  return MessageAttributes?.[name]?.StringValue;
}

/** How often SQS has handed it out. */
export function receivesOf({ Attributes }: SqsMessage): number {
  return Number(Attributes?.ApproximateReceiveCount ?? 1) || 1;
}

/** Bytes that count against the limit. @throws `PAYLOAD_TOO_LARGE` */
export function checkedSize(id: string, { MessageBody, MessageAttributes }: SqsContent, max: number): number {
  let bytes = utf8Length(MessageBody);
  for (const [name, { DataType, StringValue = "" }] of Object.entries(MessageAttributes)) {
    bytes += utf8Length(name) + DataType.length + utf8Length(StringValue);
  }
  if (bytes <= max) return bytes;
  throw new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot publish message "${id}": ${bytes} bytes, option "maxMessageBytes" is ${max}`,
    { details: { bytes, maxBytes: max } },
  );
}

function utf8Length(text: string): number {
  return new TextEncoder().encode(text).length;
}

function parseObject(text: string): Record<string, never> {
  try {
    const value = JSON.parse(text) as unknown;
    return typeof value === "object" && value !== null ? value as Record<string, never> : {};
  } catch {
    return {};
  }
}

function toBase64(text: string): string {
  let binary = "";
  for (const byte of new TextEncoder().encode(text)) binary += String.fromCharCode(byte);
  return btoa(binary);
}

function fromBase64(text: string): string {
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(text), (char) => char.charCodeAt(0)));
  } catch {
    return text; // not ours after all
  }
}
