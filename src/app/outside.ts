/**
 * Events from outside: checked against what is declared, completed, and passed on with their data byte for byte.
 *
 * @module
 */
import { encodeMessage, type MessageLimits, type ParsedEvent } from "../core/codec.ts";
import { type AnyEvent, upgrade } from "../core/definition.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { EncodedMessage, Message } from "../core/message.ts";
import type { EventToAppend } from "../ports/event_store.ts";
import type { Declared } from "./application.ts";

/** Checks and encodes events for a topic. @throws `UNKNOWN_TOPIC`, `VALIDATION_FAILED` */
export async function eventsForTopic(
  declared: Pick<Declared, "topics" | "events">,
  topic: string,
  events: readonly ParsedEvent[],
  limits: MessageLimits,
): Promise<readonly EncodedMessage[]> {
  const known = declared.topics.get(topic);
  if (!known) throw unknownTopic(topic);
  return await Promise.all(events.map(async (event) => {
    const definition = known.events.get(event.message.type);
    if (!definition && !known.open) throw undeclared(event.message.type, `on topic "${topic}"`);
    return encodeMessage(await complete(definition, event.message), limits, event.dataText);
  }));
}

/** Checks and encodes events for a stream. @throws `VALIDATION_FAILED` */
export async function eventsForStream(
  declared: Pick<Declared, "topics" | "events">,
  stream: string,
  events: readonly ParsedEvent[],
  limits: MessageLimits,
): Promise<readonly EventToAppend[]> {
  return await Promise.all(events.map(async (event) => {
    const definition = declared.events.get(event.message.type);
    if (!definition) throw undeclared(event.message.type, "in this application");
    const message = await complete(definition, { subject: stream, ...event.message });
    const correlationId = message.correlationId ?? message.id;
    return { ...encodeMessage(message, limits, event.dataText), topic: definition.topic, correlationId };
  }));
}

/** Validates the data, and fills in what the sender left out. The data itself is not replaced. */
async function complete(definition: AnyEvent | undefined, message: Message): Promise<Message> {
  const correlationId = message.correlationId ?? message.id;
  if (!definition) return { ...message, correlationId };
  const { data } = await upgrade(definition, message);
  const key = message.key ?? definition.key?.(data);
  return { ...message, correlationId, ...(key === undefined ? {} : { key }) };
}

function unknownTopic(topic: string): MillstreamError {
  return new MillstreamError(
    "UNKNOWN_TOPIC",
    `Cannot publish to topic ${describe(topic)}: it is not declared here`,
    {
      details: { topic },
    },
  );
}

function undeclared(type: string, where: string): MillstreamError {
  return new MillstreamError(
    "VALIDATION_FAILED",
    `Cannot accept event ${describe(type)}: its type is not declared ${where}`,
    {
      details: { issues: [{ path: "type", message: `not declared ${where}` }] },
    },
  );
}
