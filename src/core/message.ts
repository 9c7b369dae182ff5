/**
 * The message: what is published, sent, stored and handled. Its attributes are those of CloudEvents 1.0
 * (https://github.com/cloudevents/spec), so that other languages read ours and we read theirs.
 *
 * @module
 */

/** Facts about a message that the sender may set. Everything else is filled in. */
export interface MessageOptions {
  /** Identity from the caller through outbox, broker and inbox. Reuse it to retry a publish. @default a UUIDv7 */
  readonly id?: string;
  /** Partition key: messages with the same key are handled in order. @default the definition's `key(data)` */
  readonly key?: string;
  /** What the message is about, for example the aggregate's id. */
  readonly subject?: string;
  /** When it happened, in milliseconds since 1970. @default now */
  readonly time?: number;
  /** Groups everything that one request caused. @default that of the message being handled, else the own id */
  readonly correlationId?: string;
  /** The id of the message that caused this one. @default that of the message being handled */
  readonly causationId?: string;
  /** Who is behind it. */
  readonly userId?: string;
  /** W3C trace context. */
  readonly traceparent?: string;
  /** Further attributes: lower-case letters and digits as names, plain text as values. */
  readonly headers?: Readonly<Record<string, string>>;
}

/** A message with all its attributes. Immutable. */
export interface Message<Data = unknown> {
  /** Unique within `source`; the same through every retry, outbox, broker and inbox. */
  readonly id: string;
  /** Who sent it: a URI-reference (CloudEvents `source`). */
  readonly source: string;
  /** What happened (past tense) or what should happen: `order.placed`. */
  readonly type: string;
  /** When it happened, RFC 3339. */
  readonly time: string;
  /** Version of the data's schema, from 1 (extension `schemaversion`). */
  readonly schemaVersion: number;
  /** The payload. JSON. */
  readonly data: Data;
  readonly subject?: string;
  /** Partition key (extension `partitionkey`). */
  readonly key?: string;
  /** Extension `correlationid`. */
  readonly correlationId?: string;
  /** Extension `causationid`. */
  readonly causationId?: string;
  /** Extension `userid`. */
  readonly userId?: string;
  /** Extension `traceparent`. */
  readonly traceparent?: string;
  /** All other CloudEvents extension attributes. */
  readonly headers: Readonly<Record<string, string>>;
}

/** A message of the event store, with its place in it. */
export interface Recorded<Data = unknown> extends Message<Data> {
  /** The stream it belongs to. */
  readonly stream: string;
  /** Its place in the stream: 1, 2, 3, ... without gaps. */
  readonly version: number;
  /** Its place in the whole store: increasing, with gaps. */
  readonly position: bigint;
}

/**
 * A message as it travels and rests: its attributes beside the exact text. `body` is the CloudEvents 1.0 JSON
 * format with `data` as the last member, its text as the sender wrote it, and never changes on the way.
 */
export interface EncodedMessage {
  readonly id: string;
  readonly type: string;
  readonly key?: string;
  readonly body: string;
}
