/**
 * Messages on AMQP 0-9-1: the CloudEvents binding for AMQP, and the few headers that go with a group's own copy.
 *
 * @module
 */
import { type BindingMode, bindMessage, unbindMessage } from "../../src/core/binding.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { DeadLetter, Failure } from "../../src/ports/dead_letters.ts";
import type { AmqpMessage, AmqpProperties } from "./driver.ts";

/** The prefix of CloudEvents attributes among the headers; `cloudEvents_` is understood as well. */
const PREFIX = "cloudEvents:";

/** What a group's copy of a message knows beside the message. */
export interface CopyFacts {
  /** Of which try this is the copy. */
  readonly attempt: number;
  /** When the first try failed; 0 if none did. */
  readonly firstFailedAt: number;
  readonly redrives: number;
  /** Whether it may have been handed out before. */
  readonly suspect: boolean;
}

const STRUCTURED = "application/cloudevents+json; charset=utf-8";
/** Whose properties are known to be those of the event. */
const OURS = "millstream";
const FRESH: CopyFacts = { attempt: 1, firstFailedAt: 0, redrives: 0, suspect: false };

/** Body and properties of a message as it is published to its topic. */
export function toAmqp(
  message: EncodedMessage,
  mode: BindingMode,
): { readonly body: string; readonly properties: AmqpProperties } {
  const { id, type, key } = message;
  if (mode === "structured" && isShort(id) && isShort(type)) {
    // What a header would repeat for every message has a property of its own; others find all of it in the body.
    const headers = key === undefined ? {} : { [`${PREFIX}partitionkey`]: key };
    const properties = {
      contentType: STRUCTURED,
      messageId: id,
      type,
      appId: OURS,
      headers,
      persistent: true,
    };
    return { body: message.body, properties };
  }
  const { contentType, attributes, body } = bindMessage(message, mode);
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(attributes)) headers[PREFIX + name] = value;
  return {
    body,
    properties: { contentType, headers, ...isShort(id) ? { messageId: id } : {}, persistent: true },
  };
}

/** A short string of AMQP has at most 255 bytes. */
function isShort(text: string): boolean {
  return text.length * 3 <= 255;
}

/** The message that came, and its facts. */
export function fromAmqp(
  { content, properties, fields }: AmqpMessage,
): { readonly message: EncodedMessage; readonly facts: CopyFacts } {
  const headers = properties.headers ?? {};
  const attributes: Record<string, string> = {};
  for (const name in headers) {
    const value = headers[name];
    const named = name.startsWith(PREFIX) || name.startsWith("cloudEvents_");
    if (named && isScalar(value)) attributes[name.slice(PREFIX.length)] = String(value);
  }
  const { contentType, messageId, type, appId } = properties;
  if (
    appId === OURS && contentType === STRUCTURED && typeof messageId === "string" && typeof type === "string"
  ) {
    attributes.id ??= messageId;
    attributes.type ??= type;
  }
  const body = content.toString(); // a Buffer, which is several times faster at this than a TextDecoder
  const message = unbindMessage({ contentType, attributes, body }, String(messageId ?? "no-id"));
  const facts = {
    attempt: number(headers["millstream-attempt"], FRESH.attempt),
    firstFailedAt: number(headers["millstream-first-failed-at"], FRESH.firstFailedAt),
    redrives: number(headers["millstream-redrives"], FRESH.redrives),
    suspect: fields.redelivered === true || headers["millstream-suspect"] === true,
  };
  return { message, facts };
}

/** The properties of another copy of a message that came: as it was, with other facts. */
export function copyOf({ properties }: AmqpMessage, facts: CopyFacts): AmqpProperties {
  const headers: Record<string, unknown> = { ...foreign(properties.headers) };
  if (facts.attempt > 1) headers["millstream-attempt"] = facts.attempt;
  if (facts.firstFailedAt > 0) headers["millstream-first-failed-at"] = String(facts.firstFailedAt);
  if (facts.redrives > 0) headers["millstream-redrives"] = facts.redrives;
  if (facts.suspect) headers["millstream-suspect"] = true;
  const { contentType, messageId, type, timestamp, appId, correlationId } = properties;
  const kept = { contentType, messageId, type, timestamp, appId, correlationId };
  return { ...defined(kept), headers, persistent: true };
}

/** What a copy in the dead-letter queue says beside {@linkcode CopyFacts}. */
export function buried(
  letter: string,
  { error, message, stack, at }: Failure,
): Readonly<Record<string, string>> {
  return {
    "millstream-letter": letter,
    "millstream-error": error,
    "millstream-message": message,
    ...(stack === undefined ? {} : { "millstream-stack": stack }),
    "millstream-failed-at": String(at),
  };
}

/** The dead letter that a message of a dead-letter queue is. */
export function toDeadLetter(
  raw: AmqpMessage,
  group: { readonly topic: string; readonly group: string },
  letterId: (letter: string, at: number) => string,
): DeadLetter {
  const { message, facts } = fromAmqp(raw);
  const headers = raw.properties.headers ?? {};
  const text = (name: string): string => String(headers[`millstream-${name}`] ?? "");
  const at = number(text("failed-at"), 0);
  const stack = headers["millstream-stack"] === undefined ? {} : { stack: text("stack") };
  return {
    ...message,
    deadLetterId: letterId(text("letter"), at),
    ...group,
    attempts: facts.attempt,
    redrives: facts.redrives,
    firstFailedAt: facts.firstFailedAt || at,
    failure: { error: text("error"), message: text("message"), ...stack, at },
  };
}

/** Headers without ours, and without what the server wrote about earlier ways of the message. */
function foreign(headers: Readonly<Record<string, unknown>> = {}): Record<string, unknown> {
  const dropped = /^(millstream-|x-death$|x-first-death|x-last-death|x-delivery-count$|x-acquired-count$)/;
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !dropped.test(name)));
}

function defined(properties: AmqpProperties): AmqpProperties {
  return Object.fromEntries(Object.entries(properties).filter(([, value]) => value !== undefined));
}

function number(value: unknown, otherwise: number): number {
  const read = Number(value);
  return value !== undefined && value !== "" && Number.isSafeInteger(read) && read >= 0 ? read : otherwise;
}

function isScalar(value: unknown): boolean {
  return typeof value === "string" || typeof value === "number" || typeof value === "boolean";
}
