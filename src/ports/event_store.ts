/**
 * The event store port: streams of events, appended with an expected version, read one by one or all together.
 *
 * @module
 */
import type { Abortable } from "../core/clock.ts";
import type { EncodedMessage } from "../core/message.ts";

/**
 * What the stream must look like for an append to go through: an exact version (0 is the empty stream), or
 * `"none"` (empty), `"exists"` (not empty), `"any"`.
 */
export type ExpectedVersion = number | "any" | "none" | "exists";

/** An event to append. */
export interface EventToAppend extends EncodedMessage {
  /** Also put in the outbox for this topic, in the same transaction. */
  readonly topic?: string;
  /** Kept beside the body so that events can be found by it. */
  readonly correlationId?: string;
}

/** Events for one stream. */
export interface StreamAppend {
  readonly stream: string;
  readonly expected: ExpectedVersion;
  readonly events: readonly EventToAppend[];
}

/** Where an append put its events. */
export interface AppendResult {
  readonly stream: string;
  /** The stream's version after it. */
  readonly version: number;
  /** Position of its last event. Give it to a query to read your own write. */
  readonly position: bigint;
}

/** An event as it is stored. */
export interface StoredEvent extends EncodedMessage {
  readonly stream: string;
  /** 1, 2, 3, ... without gaps. */
  readonly version: number;
  /** Increasing over the whole store, with gaps. */
  readonly position: bigint;
}

/** Appends and reads. */
export interface EventStore {
  /**
   * Appends to one or more streams, all or nothing, in the order given.
   *
   * Idempotent by event id: if exactly these events are already in the stream, one after another, the earlier result
   * is returned, whatever the expected version. So after a lost reply the caller repeats the call unchanged.
   *
   * @throws `CONCURRENCY_CONFLICT` with `details: { stream, expected, current }`; nothing was appended.
   * @throws `INVALID_ARGUMENT` for a bad stream name, an empty append or a stream named twice; before any I/O.
   * @throws `COMMIT_INDETERMINATE` if the outcome is unknown. Repeat the call with the same events.
   */
  append(appends: readonly StreamAppend[]): Promise<readonly AppendResult[]>;

  /** Events of one stream in order of version. An unknown stream has none. */
  readStream(stream: string, options?: StreamReadOptions): Promise<readonly StoredEvent[]>;

  /**
   * Events of the whole store in order of position. The order never skips and never inverts a stream: an event is
   * only returned when nothing before it can still appear.
   */
  readAll(after: bigint, options: AllReadOptions): Promise<AllPage>;

  /** How far {@linkcode EventStore.readAll} can look at the moment. */
  head(): Promise<bigint>;

  /** Whether the stream has an event with this id. */
  has(stream: string, id: string): Promise<boolean>;
}

/** Options of {@linkcode EventStore.readStream}. */
export interface StreamReadOptions extends Abortable {
  /** First version to return; with `backwards`, the highest. @default the beginning */
  readonly from?: number;
  /** Newest first. @default false */
  readonly backwards?: boolean;
  /** At most this many. @default 10_000 */
  readonly limit?: number;
}

/** Options of {@linkcode EventStore.readAll}. */
export interface AllReadOptions extends Abortable {
  readonly limit: number;
  /** Only these types. @default all */
  readonly types?: readonly string[];
  /**
   * Only the streams of one lane, `index` from 0 to `of - 1`. Which one a stream belongs to follows from a hash of its
   * name that never changes in a store.
   */
  readonly lane?: { readonly index: number; readonly of: number };
  /** Only events whose correlation id is this. */
  readonly correlationId?: string;
  /** Only events recorded at or after this time, in milliseconds since 1970. */
  readonly since?: number;
  /** How long to wait if there is nothing yet, in milliseconds. @default 0 */
  readonly waitMs?: number;
}

/** What {@linkcode EventStore.readAll} returns. */
export interface AllPage {
  readonly events: readonly StoredEvent[];
  /** How far it looked, filtered events included: read on from here, and save this as the checkpoint. */
  readonly position: bigint;
}
