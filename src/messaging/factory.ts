/**
 * From what an application says to what travels: fills in a message's attributes, validates and encodes it.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { encodeMessage, type MessageLimits } from "../core/codec.ts";
import {
  type AnyCommand,
  type AnyEvent,
  commandTopic,
  type MessageDefinition,
  type NewEvent,
} from "../core/definition.ts";
import type { IdGenerator } from "../core/ids.ts";
import type { EncodedMessage, Message, MessageOptions } from "../core/message.ts";
import { validate } from "../core/schema.ts";
import { childTraceparent } from "../core/trace.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import type { EventToAppend } from "../ports/event_store.ts";

/** Makes messages. */
export interface MessageFactory {
  /** A validated, encoded event. */
  event(definition: AnyEvent, data: unknown, options: MessageOptions): Promise<EncodedMessage>;
  /** As {@linkcode MessageFactory.event}, ready for the event store and for publishing after the commit. The event's own options are not looked at. */
  toAppend(event: NewEvent, options: MessageOptions): Promise<EventToAppend>;
  /** A validated, encoded command, with the topic on which it travels. */
  toSend(definition: AnyCommand, data: unknown, options: MessageOptions): Promise<OutboxMessage>;
  /** A validated command. */
  command<Data>(definition: AnyCommand, data: unknown, options: MessageOptions): Promise<Message<Data>>;
}

/** Where messages come from. */
export interface FactoryOptions {
  /** CloudEvents `source`. */
  readonly source: string;
  readonly clock: Clock;
  readonly newId: IdGenerator;
  readonly limits: MessageLimits;
}

/** RFC 3339 has years of four digits. */
const FIRST_TIME = Date.parse("0000-01-01T00:00:00.000Z");
const LAST_TIME = Date.parse("9999-12-31T23:59:59.999Z");

/** Creates a {@linkcode MessageFactory}. */
export function messageFactory(factory: FactoryOptions): MessageFactory {
  let lastMs = NaN;
  let lastTime = "";

  /** Many messages are made in one millisecond. */
  function isoTime(ms: number): string {
    if (ms === lastMs) return lastTime;
    lastTime = new Date(ms).toISOString();
    lastMs = ms;
    return lastTime;
  }

  async function build(
    definition: MessageDefinition,
    input: unknown,
    options: MessageOptions,
  ): Promise<Message> {
    const { type, version, schema, kind } = definition;
    const data = await validate(schema, input, `${kind} "${type}"`);
    const id = options.id ?? factory.newId();
    const time = options.time ?? factory.clock.now();
    checkRange("time", time, FIRST_TIME, LAST_TIME);
    const key = options.key ?? definition.key?.(data);
    return {
      id,
      source: factory.source,
      type,
      time: isoTime(time),
      schemaVersion: version,
      data,
      correlationId: options.correlationId ?? id,
      headers: options.headers ?? {},
      ...(key === undefined ? {} : { key }),
      ...(options.subject === undefined ? {} : { subject: options.subject }),
      ...(options.causationId === undefined ? {} : { causationId: options.causationId }),
      ...(options.traceparent === undefined ? {} : { traceparent: options.traceparent }),
      ...(options.userId === undefined ? {} : { userId: options.userId }),
    };
  }

  return {
    event: async (definition, data, options) =>
      encodeMessage(await build(definition, data, options), factory.limits),
    async toAppend({ definition, data }, options) {
      const message = await build(definition, data, options);
      const correlationId = message.correlationId ?? message.id;
      return { ...encodeMessage(message, factory.limits), topic: definition.topic, correlationId };
    },
    async toSend(definition, data, options) {
      const message = await build(definition, data, options);
      return { ...encodeMessage(message, factory.limits), topic: commandTopic(definition.type) };
    },
    command: async <Data>(definition: AnyCommand, data: unknown, options: MessageOptions) =>
      await build(definition, data, options) as Message<Data>,
  };
}

/** What a message passes on to those it causes. */
export function inherited(cause: Message): MessageOptions {
  return {
    correlationId: cause.correlationId ?? cause.id,
    causationId: cause.id,
    ...(cause.traceparent === undefined ? {} : { traceparent: childTraceparent(cause.traceparent) }),
    ...(cause.userId === undefined ? {} : { userId: cause.userId }),
  };
}
