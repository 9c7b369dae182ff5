/**
 * Messages on NATS: the CloudEvents binding for NATS, and the few headers that go with a group's own copy.
 *
 * @module
 */
import { type BindingMode, bindMessage, unbindMessage } from "../../src/core/binding.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { DeadLetter, Failure } from "../../src/ports/dead_letters.ts";
import type { NatsMessage } from "./driver.ts";

/** Headers and body of a message. */
export interface Wire {
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Uint8Array;
}

/** What a group's copy of a message knows beside the message. */
export interface CopyFacts {
  /** Of which try this is the copy. */
  readonly attempt: number;
  /** When the first try failed; 0 if none did. */
  readonly firstFailedAt: number;
  readonly redrives: number;
  /** Not to be handed out before so many milliseconds after the server took it. */
  readonly delayMs: number;
}

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });
const BYTES = new TextEncoder();
const SAFE = /^[\x21\x23\x24\x26-\x7e]*$/;

/** A message as it is published to its topic. The server recognises its id for a while. */
export function toNats(message: EncodedMessage, mode: BindingMode, delayMs: number): Wire {
  const { contentType, attributes, body } = bindMessage(message, mode);
  const headers: Record<string, string> = { "content-type": contentType, "Nats-Msg-Id": escape(message.id) };
  for (const [name, value] of Object.entries(attributes)) headers[`ce-${name}`] = escape(value);
  if (delayMs > 0) headers["millstream-delay"] = String(Math.ceil(delayMs));
  return { headers, body: BYTES.encode(body) };
}

/** The message that came, and its facts. */
export function fromNats(
  raw: Pick<NatsMessage, "headers" | "data">,
  fallbackId: string,
): { readonly message: EncodedMessage; readonly facts: CopyFacts } {
  const headers = readHeaders(raw);
  const attributes: Record<string, string> = {};
  for (const name in headers) {
    if (name.slice(0, 3).toLowerCase() === "ce-") {
      attributes[name.slice(3).toLowerCase()] = unescape(headers[name]!);
    }
  }
  const contentType = headers["content-type"] ?? headers["Content-Type"];
  const message = unbindMessage({ contentType, attributes, body: UTF8.decode(raw.data) }, fallbackId);
  const facts = {
    attempt: number(headers["millstream-attempt"], 1),
    firstFailedAt: number(headers["millstream-first-failed-at"], 0),
    redrives: number(headers["millstream-redrives"], 0),
    delayMs: number(headers["millstream-delay"], 0),
  };
  return { message, facts };
}

/**
 * Another copy of a message that came: as it was, with other facts.
 *
 * @param copyId The same for the same copy, so that the server recognises one that is made twice.
 */
export function copyOf(raw: Pick<NatsMessage, "headers" | "data">, facts: CopyFacts, copyId: string): Wire {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(readHeaders(raw))) {
    if (!/^(nats-|millstream-)/i.test(name)) headers[name] = value;
  }
  headers["Nats-Msg-Id"] = escape(copyId);
  if (facts.attempt > 1) headers["millstream-attempt"] = String(facts.attempt);
  if (facts.firstFailedAt > 0) headers["millstream-first-failed-at"] = String(facts.firstFailedAt);
  if (facts.redrives > 0) headers["millstream-redrives"] = String(facts.redrives);
  if (facts.delayMs > 0) headers["millstream-delay"] = String(Math.ceil(facts.delayMs));
  return { headers, body: raw.data };
}

/** What a dead letter's headers say beside {@linkcode CopyFacts}. */
export function buried({ error, message, stack, at }: Failure): Readonly<Record<string, string>> {
  return {
    "millstream-error": escape(error),
    "millstream-message": escape(message),
    ...(stack === undefined ? {} : { "millstream-stack": escape(stack) }),
    "millstream-failed-at": String(at),
  };
}

/** The dead letter that a message of the stream of dead letters is. */
export function toDeadLetter(
  raw: Pick<NatsMessage, "headers" | "data">,
  place: { readonly topic: string; readonly group: string; readonly seq: number },
): DeadLetter {
  const { topic, group, seq } = place;
  const { message, facts } = fromNats(raw, `dead:${seq}`);
  const headers = readHeaders(raw);
  const text = (name: string): string => unescape(headers[`millstream-${name}`] ?? "");
  const at = number(text("failed-at"), 0);
  return {
    ...message,
    deadLetterId: String(seq),
    topic,
    group,
    attempts: facts.attempt,
    redrives: facts.redrives,
    firstFailedAt: facts.firstFailedAt || at,
    failure: {
      error: text("error"),
      message: text("message"),
      ...(headers["millstream-stack"] === undefined ? {} : { stack: text("stack") }),
      at,
    },
  };
}

function readHeaders({ headers }: Pick<NatsMessage, "headers">): Record<string, string> {
  const read: Record<string, string> = {};
  for (const name of headers?.keys() ?? []) read[name] = headers?.get(name) ?? "";
  return read;
}

/** Percent-encoding of the CloudEvents HTTP binding, which the one for NATS takes over. */
function escape(text: string): string {
  if (SAFE.test(text)) return text;
  const whole = text.replace(/[\ud800-\udfff]/gu, "\ufffd"); // half a character cannot be encoded
  return whole.replace(/[^\x21\x23\x24\x26-\x7e]+/gu, encodeURIComponent);
}

function unescape(text: string): string {
  if (!text.includes("%")) return text;
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function number(value: string | undefined, otherwise: number): number {
  const read = Number(value);
  return value !== undefined && value !== "" && Number.isSafeInteger(read) && read >= 0 ? read : otherwise;
}
