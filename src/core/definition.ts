/**
 * What exists in an application: its events, commands, queries and topics. Each is defined once, beside its schema,
 * and passed around as a value; types are inferred from it.
 *
 * @module
 */
import { checkRange } from "./backoff.ts";
import { MillstreamError } from "./errors.ts";
import type { Message, MessageOptions } from "./message.ts";
import { checkName } from "./names.ts";
import { type Schema, validate } from "./schema.ts";

/** Turns data of one schema version into data of the next. Pure. */
// deno-lint-ignore no-explicit-any -- old shapes are unknown by nature
export type Upcaster = (data: any) => unknown;

/** Options of {@linkcode event}. */
export interface EventOptions<Data> {
  /** Version of the schema, stored with every message. @default 1 */
  readonly version?: number;
  /** For each older version, how its data becomes data of the next version. */
  readonly upcast?: Readonly<Record<number, Upcaster>>;
  /** The partition key: messages with the same key are handled in order. @default none */
  readonly key?: (data: Data) => string;
  /**
   * The topic it is published to. Events that must be handled in order belong to one topic.
   * @default the type up to the first dot: `order.placed` and `order.confirmed` both go to `order`
   */
  readonly topic?: string;
}

/** An event that has happened but is not yet recorded. */
export interface NewEvent<Data = unknown, Type extends string = string> {
  // Not of `Data`: an event with a `key` would then be no `NewEvent<unknown>`, which all that takes events takes.
  readonly definition: AnyEvent;
  readonly type: Type;
  readonly data: Data;
  readonly options: MessageOptions;
}

/** The definition of an event. Call it to create one: `OrderPlaced({ orderId: "o-1", total: 42 })`. */
export interface EventDefinition<Data = unknown, Type extends string = string>
  extends MessageDefinition<Data, Type> {
  (data: Data, options?: MessageOptions): NewEvent<Data, Type>;
  readonly kind: "event";
  readonly topic: string;
}

/** The definition of a command: something one handler should do, and what it answers. */
export interface CommandDefinition<Data = unknown, Result = unknown, Type extends string = string>
  extends MessageDefinition<Data, Type> {
  readonly kind: "command";
  /** Validates the answer, where given. */
  readonly resultSchema: Schema<unknown, Result> | undefined;
}

/** The definition of a query: something one handler answers without changing anything. */
export interface QueryDefinition<Params = unknown, Result = unknown, Type extends string = string>
  extends MessageDefinition<Params, Type> {
  readonly kind: "query";
  /** Validates the answer, where given. */
  readonly resultSchema: Schema<unknown, Result> | undefined;
}

/** What events, commands and queries have in common. */
export interface MessageDefinition<Data = unknown, Type extends string = string> {
  readonly kind: "event" | "command" | "query";
  readonly type: Type;
  readonly schema: Schema<unknown, Data>;
  readonly version: number;
  readonly upcast: Readonly<Record<number, Upcaster>>;
  readonly key: ((data: Data) => string) | undefined;
}

/** A topic that carries messages of any type, for consumers that take them all. */
export interface TopicDefinition {
  readonly kind: "topic";
  readonly topic: string;
}

/** Any event definition. */
// deno-lint-ignore no-explicit-any -- a definition takes its data and gives it back, so only `any` matches them all
export type AnyEvent = EventDefinition<any, string>;

/** Any command definition. */
// deno-lint-ignore no-explicit-any -- as above
export type AnyCommand = CommandDefinition<any, any, string>;

/** Any query definition. */
// deno-lint-ignore no-explicit-any -- as above
export type AnyQuery = QueryDefinition<any, any, string>;

/** The data type of a definition; `unknown` for a topic. */
export type DataOf<D> = D extends { readonly schema: Schema<unknown, infer Data> } ? Data : unknown;

/** The result type of a command or query. */
export type ResultOf<D> = D extends { readonly resultSchema: Schema<unknown, infer Result> | undefined }
  ? Result
  : never;

/**
 * Defines an event.
 *
 * @example
 * ```ts
 * const OrderPlaced = event("order.placed", v.object({ orderId: v.string(), total: v.number() }), {
 *   version: 2,
 *   upcast: { 1: (old) => ({ ...old, total: old.amount }) },
 *   key: (data) => data.orderId,
 * });
 * ```
 * @param type Past tense, from general to specific: `order.placed`.
 * @param schema Any Standard Schema.
 * @throws `INVALID_ARGUMENT` for a bad name, or where an upcaster is missing between 1 and `version`.
 */
export function event<const Type extends string, Data>(
  type: Type,
  schema: Schema<unknown, Data>,
  options: EventOptions<Data> = {},
): EventDefinition<Data, Type> {
  const create = (data: Data, messageOptions: MessageOptions = {}): NewEvent<Data, Type> => ({
    definition,
    type,
    data,
    options: messageOptions,
  });
  const definition: EventDefinition<Data, Type> = Object.assign(create, {
    ...define("event", type, schema, options),
    kind: "event" as const,
    topic: checkName("topic", options.topic ?? type.split(".")[0]!),
  });
  return definition;
}

/** Options of {@linkcode command}. */
export interface CommandOptions<Data, Result = unknown> {
  /** Version of the schema. @default 1 */
  readonly version?: number;
  /** For each older version, how its data becomes data of the next version. */
  readonly upcast?: Readonly<Record<number, Upcaster>>;
  /** The partition key. @default none */
  readonly key?: (data: Data) => string;
  /** What the handler answers. @default anything */
  readonly result?: Schema<unknown, Result>;
}

/** Defines a command: `command("order.place", v.object({ ... }))`. */
export function command<const Type extends string, Data, Result = unknown>(
  type: Type,
  schema: Schema<unknown, Data>,
  options: CommandOptions<Data, Result> = {},
): CommandDefinition<Data, Result, Type> {
  return { ...define("command", type, schema, options), kind: "command", resultSchema: options.result };
}

/** The topic on which a command travels when it is not run where it was sent. */
export function commandTopic(type: string): string {
  return `command.${type}`;
}

/** Defines a query by the schemas of its parameters and, optionally, of its answer. */
export function query<const Type extends string, Params, Result = unknown>(
  type: Type,
  params: Schema<unknown, Params>,
  result?: Schema<unknown, Result>,
): QueryDefinition<Params, Result, Type> {
  return { ...define<Type, Params>("query", type, params, {}), kind: "query", resultSchema: result };
}

/** Names a topic whose messages may be of any type: `app.on(topic("github"), { group }, handler)`. */
export function topic(name: string): TopicDefinition {
  return { kind: "topic", topic: checkName("topic", name) };
}

function define<Type extends string, Data>(
  kind: MessageDefinition["kind"],
  type: Type,
  schema: Schema<unknown, Data>,
  options: Pick<CommandOptions<Data>, "version" | "upcast" | "key">,
): MessageDefinition<Data, Type> {
  const { version = 1, upcast = {}, key } = options;
  checkName(`${kind} type`, type);
  checkRange("version", version, 1, 1_000_000, true);
  for (let old = 1; old < version; old++) {
    if (typeof upcast[old] === "function") continue;
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot define ${kind} "${type}": version ${version} needs an upcaster from version ${old}`,
      { details: { type, missing: old } },
    );
  }
  return { kind, type, schema, version, upcast, key };
}

/**
 * The message with its data brought to the definition's version, step by step, and validated: at once, unless the
 * schema validates asynchronously.
 *
 * @throws `UNKNOWN_SCHEMA_VERSION` if it is newer than the definition, `VALIDATION_FAILED` if it does not match or an
 * upcaster cannot read it.
 */
export function upgrade<Data>(
  definition: MessageDefinition<Data>,
  message: Message,
): Message<Data> | Promise<Message<Data>> {
  const { type, version, schema, kind } = definition;
  if (message.schemaVersion > version) {
    throw new MillstreamError(
      "UNKNOWN_SCHEMA_VERSION",
      `Cannot read ${kind} "${type}" of schema version ${message.schemaVersion}: this process knows up to ${version}`,
      { details: { type, version: message.schemaVersion, known: version } },
    );
  }
  let data: unknown = message.data;
  for (let old = message.schemaVersion; old < version; old++) data = upcastOnce(definition, old, data);
  const valid = validate(schema, data, `${kind} "${type}"`);
  return valid instanceof Promise
    ? valid.then((later) => withData(message, version, later))
    : withData(message, version, valid);
}

function withData<Data>(message: Message, schemaVersion: number, data: Data): Message<Data> {
  return { ...message, schemaVersion, data };
}

function upcastOnce<Data>(
  { kind, type, upcast }: MessageDefinition<Data>,
  version: number,
  data: unknown,
): unknown {
  try {
    return upcast[version]!(data);
  } catch (cause) {
    // An upcaster trusts old data to be what it was; data that is not, is invalid like any other.
    throw new MillstreamError(
      "VALIDATION_FAILED",
      `Cannot accept ${kind} "${type}": its data is not what it was in schema version ${version}`,
      { cause, details: { issues: [{ path: "", message: `not data of schema version ${version}` }] } },
    );
  }
}
