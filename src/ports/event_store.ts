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
  /**
   * What it is about beside its stream, for example `course:c-1` and `student:s-7`: events can be found by it, and
   * decisions made on it ({@linkcode AppendCondition}). At most 16, of up to 255 characters.
   */
  readonly tags?: readonly string[];
}

/** Events that have all of these tags, and one of these types. */
export interface EventQuery {
  /** At least one. */
  readonly tags: readonly string[];
  /** @default all */
  readonly types?: readonly string[];
}

/**
 * A decision that crosses streams (a dynamic consistency boundary): the append goes through only if nothing it depends
 * on was appended since.
 */
export interface AppendCondition {
  /** What must not have been appended: events that match one of these. */
  readonly failIfMatches: readonly EventQuery[];
  /** The position up to which the decision knew the events: what {@linkcode EventStore.readMatching} returned. */
  readonly after: bigint;
}

/** Options of {@linkcode EventStore.append}. */
export interface AppendOptions extends Abortable {
  /** Goes through only if this holds, whatever the expected versions. */
  readonly condition?: AppendCondition;
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

/** What is known of a stream. */
export interface StreamInfo {
  readonly stream: string;
  /** Version of its last event, read or not: versions are never used again. */
  readonly version: number;
  /** The lowest version that reads return; above `version` if they return nothing. */
  readonly firstVersion: number;
  readonly state: StreamState;
  /** The application's own notes. */
  readonly metadata?: string;
}

/**
 * - `open`: as streams are.
 * - `deleted`: reads of the stream return nothing; `readAll` still does, so that projections know the whole story. An
 *   append that expects `"none"`, 0 or `"any"` opens it again; its versions go on behind the last one, and what was
 *   before stays hidden.
 * - `archived`: its events are moved away: no read returns them unless it says `archived`, and appends are refused.
 *
 * A deleted or archived stream that is set to `open` is as it was before.
 */
export type StreamState = "open" | "deleted" | "archived";

/** What shall become of a stream. What is absent stays as it is. */
export interface StreamChange {
  /** Only an open stream can be deleted or archived. Setting the state it has changes nothing. */
  readonly state?: StreamState;
  /**
   * Removes all events below this version for good, from `readAll` too; 1 to the version of the stream, which keeps its
   * last event. Appends of removed events are not recognised as repetitions any more.
   */
  readonly truncateBefore?: number;
  /** Any text of up to 65,536 characters, for example JSON; null to remove it. */
  readonly metadata?: string | null;
}

/** Options of {@linkcode EventStore.changeStream}. */
export interface StreamChangeOptions extends Abortable {
  /** The version the stream must have. @default any */
  readonly expected?: number;
}

/** Appends and reads. */
export interface EventStore {
  /**
   * Appends to one or more streams, all or nothing, in the order given.
   *
   * Idempotent by event id: if exactly these events are already in the stream, one after another, the earlier result
   * is returned, whatever the expected version and the condition. So after a lost reply the caller repeats the call
   * unchanged.
   *
   * Calls may be carried out together with those of other callers; each has an outcome of its own. Calls of one process
   * for the same stream take effect in the order in which they were made.
   *
   * @throws `CONCURRENCY_CONFLICT` with `details: { stream, expected, current }`, or with
   * `details: { condition: "failIfMatches" }`; nothing was appended.
   * @throws `INVALID_ARGUMENT` for a bad stream name, an empty append, a stream or an id named twice, a body that UTF-8
   * cannot carry; `PAYLOAD_TOO_LARGE` for a body above 8 MiB; before any I/O.
   * @throws `COMMIT_INDETERMINATE` if the outcome is unknown. Repeat the call with the same events.
   * @throws `REJECTED` with `details: { stream, state: "archived" }`; nothing was appended.
   * @throws `ABORTED` if the signal aborts before anything was sent. Later it is too late: the outcome is awaited.
   */
  append(appends: readonly StreamAppend[], options?: AppendOptions): Promise<readonly AppendResult[]>;

  /** What is known of a stream; nothing if it never had an event. */
  describeStream(stream: string): Promise<StreamInfo | undefined>;

  /**
   * Deletes, archives, opens or truncates a stream, or notes something about it; all of that or nothing (but a long
   * truncation outside of a transaction happens in steps: repeat it if it fails). Waits for appends under way.
   *
   * @throws `NOT_FOUND` for a stream that never had an event; `CONCURRENCY_CONFLICT` with
   * `details: { stream, expected, current }`; `REJECTED` with `details: { stream, state }` for a change that this state
   * does not allow; `INVALID_ARGUMENT`.
   */
  changeStream(stream: string, change: StreamChange, options?: StreamChangeOptions): Promise<StreamInfo>;

  /** Events of one stream in order of version. An unknown stream has none. */
  readStream(stream: string, options?: StreamReadOptions): Promise<readonly StoredEvent[]>;

  /**
   * Events that match one of the queries, in order of position, to base a decision on. It waits for appends of such
   * events that are under way; inside a transaction it keeps others from making any until the end.
   *
   * Whatever matches and is appended later has a position above the one returned: give that to
   * {@linkcode AppendCondition.after}. (The position of {@linkcode EventStore.readAll} would do as well, but lags behind.)
   */
  readMatching(queries: readonly EventQuery[], options?: MatchingReadOptions): Promise<AllPage>;

  /**
   * Events of the whole store in order of position. The order never skips and never inverts a stream: an event is
   * only returned when nothing before it can still appear.
   *
   * @throws `INVALID_ARGUMENT` with `details: { after, end }` for a position behind all events: it is none of this store,
   * or the store has lost some. `REJECTED` with `details: { lost: true }` once events that this process has read are gone
   * (a failover to a standby that lagged behind, an older backup): reading on would miss others in their places.
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
  /** Reads the events of an archived stream; others have none then. @default false */
  readonly archived?: boolean;
}

/** Options of {@linkcode EventStore.readMatching}. */
export interface MatchingReadOptions extends Abortable {
  /** Only events behind this position. @default 0n */
  readonly after?: bigint;
  /** At most this many; if that many come, read on from the position returned. @default 10_000 */
  readonly limit?: number;
}

/** Options of {@linkcode EventStore.readAll}. */
export interface AllReadOptions extends Abortable {
  readonly limit: number;
  /** Only these types. @default all */
  readonly types?: readonly string[];
  /** Only streams whose names begin with this and a dash: `order` for `order-1` and `order-line-1`. */
  readonly category?: string;
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
