/**
 * What can become of a stream in memory.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { StreamChange, StreamChangeOptions, StreamInfo } from "../ports/event_store.ts";
import { type EventRows, type Recording, type Stream, versionOf } from "./event_rows.ts";
import type { Session } from "./session.ts";

/** See `EventStore.describeStream`. */
export function describeStream(rows: EventRows, name: string): StreamInfo | undefined {
  const stream = rows.streams.get(name);
  if (!stream || versionOf(stream) === 0) return undefined;
  const { state, first: firstVersion, metadata } = stream;
  const info = { stream: name, version: versionOf(stream), firstVersion, state };
  return metadata === null ? info : { ...info, metadata };
}

/** See `EventStore.changeStream`. */
export function changeStream(
  session: Session,
  { rows, stream: name, change, options }: {
    readonly rows: EventRows;
    readonly stream: string;
    readonly change: StreamChange;
    readonly options: StreamChangeOptions;
  },
): StreamInfo {
  const stream = rows.streams.get(name);
  if (!stream || versionOf(stream) === 0) throw refused("NOT_FOUND", name, "it does not exist");
  check(stream, name, { change, options });

  const before = { ...stream, versions: new Map(stream.versions) };
  const { all } = rows;
  session.undo(() => {
    Object.assign(stream, before);
    rows.all = all;
  });
  const { state = stream.state, truncateBefore, metadata } = change;
  if (truncateBefore !== undefined) truncate(rows, stream, truncateBefore);
  if (state !== stream.state) setState(rows, stream, state);
  if (metadata !== undefined) stream.metadata = metadata;
  return describeStream(rows, name)!;
}

function check(
  stream: Stream,
  name: string,
  { change, options }: { readonly change: StreamChange; readonly options: StreamChangeOptions },
): void {
  const { state: wanted, truncateBefore = 1 } = change;
  const { expected } = options;
  const { state } = stream;
  const current = versionOf(stream);
  if (expected !== undefined && expected !== current) {
    const why = `expected version ${expected}, got ${current}`;
    throw refused("CONCURRENCY_CONFLICT", name, why, { expected, current });
  }
  const moves = wanted !== undefined && wanted !== state && wanted !== "open";
  if (state !== "open" && (moves || change.truncateBefore !== undefined)) {
    throw refused("REJECTED", name, `expected an open stream, got one that is ${state}`, { state });
  }
  if (truncateBefore > current) {
    const why = `expected truncateBefore from 1 to ${current}, got ${truncateBefore}`;
    throw refused("INVALID_ARGUMENT", name, why, { option: "truncateBefore", max: current });
  }
}

function truncate(rows: EventRows, stream: Stream, before: number): void {
  stream.first = Math.max(stream.first, before);
  const gone = stream.events.filter(({ version }) => version < before);
  stream.events = stream.events.slice(gone.length);
  stream.removed += gone.length;
  for (const { id } of gone) stream.versions.delete(id);
  const positions = new Set(gone.map(({ position }) => position));
  rows.all = rows.all.filter(({ event }) => !positions.has(event.position));
}

function setState(rows: EventRows, stream: Stream, state: Stream["state"]): void {
  if (state === "deleted") stream.first = versionOf(stream) + 1;
  if (stream.state === "deleted") stream.first = stream.removed + 1;
  if (state === "archived") {
    const own = new Set(stream.events);
    stream.archive = rows.all.filter(({ event }) => own.has(event));
    rows.all = rows.all.filter(({ event }) => !own.has(event));
  }
  if (stream.state === "archived") {
    rows.all = [...rows.all, ...stream.archive].sort(byPosition);
    stream.archive = [];
  }
  stream.state = state;
}

function byPosition(a: Recording, b: Recording): number {
  return a.event.position < b.event.position ? -1 : 1;
}

function refused(
  code: "NOT_FOUND" | "CONCURRENCY_CONFLICT" | "REJECTED" | "INVALID_ARGUMENT",
  stream: string,
  why: string,
  details: Record<string, unknown> = {},
): MillstreamError {
  return new MillstreamError(code, `Cannot change stream "${stream}": ${why}`, {
    details: { stream, ...details },
  });
}
