/**
 * The events that a store in memory has.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { StoredEvent, StreamReadOptions, StreamState } from "../ports/event_store.ts";

/** All events of a store. */
export interface EventRows {
  readonly streams: Map<string, Stream>;
  /** By position. */
  all: Recording[];
  lastPosition: bigint;
}

/** One stream. */
export interface Stream {
  events: StoredEvent[];
  /** How many versions were removed from its beginning. */
  removed: number;
  /** The lowest version that reads return. */
  first: number;
  state: StreamState;
  metadata: string | null;
  /** What was moved out of {@linkcode EventRows.all}. */
  archive: readonly Recording[];
  /** By event id. */
  versions: Map<string, number>;
}

/** An event, with what it can be found by. */
export interface Recording {
  readonly event: StoredEvent;
  readonly correlationId: string | undefined;
  readonly tags: readonly string[];
  readonly at: number;
}

/** No events. */
export function eventRows(): EventRows {
  return { streams: new Map(), all: [], lastPosition: 0n };
}

/** A stream without events. */
export function newStream(): Stream {
  return {
    events: [],
    removed: 0,
    first: 1,
    state: "open",
    metadata: null,
    archive: [],
    versions: new Map(),
  };
}

/** The version of a stream's last event. */
export function versionOf(stream: Stream | undefined): number {
  return stream ? stream.removed + stream.events.length : 0;
}

/** What a read of the stream returns. */
export function streamEvents(stream: Stream | undefined, options: StreamReadOptions): readonly StoredEvent[] {
  const { backwards = false, limit = 10_000, from = backwards ? versionOf(stream) : 1, archived = false } =
    options;
  checkRange("limit", limit, 1, 1_000_000, true);
  checkRange("from", from, 0, Number.MAX_SAFE_INTEGER, true);
  if (!stream || archived !== (stream.state === "archived")) return [];
  const place = (version: number): number => Math.max(0, version - stream.removed - 1);
  const start = place(stream.first);
  if (!backwards) {
    const begin = Math.max(start, place(from));
    return stream.events.slice(begin, begin + limit);
  }
  const end = Math.max(start, Math.min(from, versionOf(stream)) - stream.removed);
  return stream.events.slice(Math.max(start, end - limit), end).reverse();
}
