/**
 * Events in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { aborted, type Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type {
  AllPage,
  AllReadOptions,
  AppendCondition,
  AppendResult,
  EventQuery,
  EventStore,
  EventToAppend,
  ExpectedVersion,
  StoredEvent,
  StreamAppend,
} from "../ports/event_store.ts";
import { checkAppends, checkChange, checkPosition, checkQueries } from "../ports/event_store_checks.ts";
import type { Bell } from "./bell.ts";
import {
  type EventRows,
  newStream,
  type Recording,
  type Stream,
  streamEvents,
  versionOf,
} from "./event_rows.ts";
import type { OutboxRows } from "./outbox.ts";
import type { Session } from "./session.ts";
import { changeStream, describeStream } from "./stream_changes.ts";

/** What the event store works with. */
export interface EventStoreSetting {
  readonly rows: EventRows;
  readonly outbox: OutboxRows;
  readonly clock: Clock;
  /** Rung with the name `""` after each commit that added events. */
  readonly appended: Bell;
  /** Whether reads may wait for events. Not inside a transaction, during which nobody else can append. */
  readonly waits: boolean;
}

/** The event store port on a session. */
export function memoryEventStore(
  session: Session,
  { rows, outbox, clock, appended, waits }: EventStoreSetting,
): EventStore {
  function append(
    appends: readonly StreamAppend[],
    condition: AppendCondition | undefined,
  ): readonly AppendResult[] {
    const earlier = appends.map((one) => earlierResult(rows, one));
    if (earlier.includes(undefined)) {
      const half = appends.find((_, index) => earlier[index]);
      if (half) throw conflict(half.stream, half.expected, versionOf(rows.streams.get(half.stream)));
      if (condition) checkCondition(appends, condition);
    }
    const results = appends.map((one, index) => earlier[index] ?? appendOne(one));
    session.onCommit(() => appended.ring(""));
    return results;
  }

  function checkCondition(appends: readonly StreamAppend[], { failIfMatches, after }: AppendCondition): void {
    const own = new Set(appends.flatMap(({ events }) => events.map(({ id }) => id)));
    const found = matching(failIfMatches, after).find(({ event }) => !own.has(event.id));
    if (found) throw conditionFailed();
  }

  function matching(queries: readonly EventQuery[], after: bigint): readonly Recording[] {
    return rows.all.slice(firstAfter(rows.all, after)).filter(({ event, tags }) =>
      queries.some((query) =>
        query.tags.every((tag) => tags.includes(tag)) && (query.types?.includes(event.type) ?? true)
      )
    );
  }

  function appendOne({ stream: name, expected, events }: StreamAppend): AppendResult {
    const stream = rows.streams.get(name);
    if (stream?.state === "archived") throw archived(name);
    const version = versionOf(stream);
    const current = stream?.state === "deleted" ? 0 : version;
    const known = events.some(({ id }) => stream?.versions.has(id)); // but not all, one after another
    if (known || !fits(expected, current)) throw conflict(name, expected, current);
    for (const event of events) add(name, event);
    return { stream: name, version: version + events.length, position: rows.lastPosition };
  }

  function add(name: string, { topic, correlationId, tags = [], id, type, key, body }: EventToAppend): void {
    const stream: Stream = rows.streams.get(name) ?? newStream();
    rows.streams.set(name, stream);
    const message = key === undefined ? { id, type, body } : { id, type, key, body };
    const position = ++rows.lastPosition; // not given back by a rollback: positions may have gaps
    const event: StoredEvent = Object.freeze({
      ...message,
      stream: name,
      version: versionOf(stream) + 1,
      position,
    });
    const { state } = stream;
    stream.state = "open";
    session.undo(() => {
      stream.state = state;
      rows.all.pop();
      stream.events.pop();
      stream.versions.delete(id);
    });
    rows.all.push({ event, correlationId, tags: [...tags], at: clock.now() });
    stream.events.push(event);
    stream.versions.set(id, event.version);
    if (topic !== undefined) outbox.add(session, { ...message, topic }, clock.now());
  }

  function readAll(after: bigint, options: AllReadOptions): AllPage {
    if (after > rows.lastPosition) throw behindTheEnd(after, rows.lastPosition);
    const events: StoredEvent[] = [];
    const matches = filter(options);
    let position = after;
    for (let at = firstAfter(rows.all, after); at < rows.all.length && events.length < options.limit; at++) {
      const recording = rows.all[at]!;
      position = recording.event.position;
      if (matches(recording)) events.push(recording.event);
    }
    return { events, position };
  }

  return {
    async append(appends, { condition, signal } = {}) {
      checkAppends(appends, condition);
      if (signal?.aborted) throw aborted(signal);
      return await session.run(() => append(appends, condition));
    },
    async readMatching(queries, { after = 0n, limit = 10_000, signal } = {}) {
      checkQueries(queries);
      checkPosition("after", after);
      checkRange("limit", limit, 1, 1_000_000, true);
      if (signal?.aborted) throw aborted(signal);
      const found = await session.run(() => matching(queries, after).slice(0, limit));
      return { events: found.map(({ event }) => event), position: found.at(-1)?.event.position ?? after };
    },
    async readStream(stream, options = {}) {
      checkText("stream", stream);
      if (options.signal?.aborted) throw aborted(options.signal);
      return await session.run(() => streamEvents(rows.streams.get(stream), options));
    },
    async readAll(after, options) {
      const { limit, waitMs = 0, signal } = options;
      checkPosition("after", after);
      checkRange("limit", limit, 1, 1_000_000, true);
      if (options.category !== undefined) checkText("category", options.category);
      if (options.lane) checkRange("lane.index", options.lane.index, 0, options.lane.of - 1, true);
      if (signal?.aborted) throw aborted(signal);
      const end = clock.monotonic() + waitMs;
      let page = await session.run(() => readAll(after, options));
      for (let left = waitMs; waits && page.events.length === 0 && left > 0; left = end - clock.monotonic()) {
        await appended.wait("", left, signal);
        page = await session.run(() => readAll(page.position, options));
      }
      return page;
    },
    async describeStream(stream) {
      checkText("stream", stream);
      return await session.run(() => describeStream(rows, stream));
    },
    async changeStream(stream, change, options = {}) {
      checkChange(stream, change, options);
      if (options.signal?.aborted) throw aborted(options.signal);
      return await session.run(() => changeStream(session, { rows, stream, change, options }));
    },
    head: () => session.run(() => rows.lastPosition),
    has: (stream, id) => session.run(() => rows.streams.get(stream)?.versions.has(id) ?? false),
  };
}

/** What an append returned before, if exactly its events are in the stream one after another. */
function earlierResult(
  { streams }: EventRows,
  { stream: name, events }: StreamAppend,
): AppendResult | undefined {
  const stream = streams.get(name);
  const first = stream?.versions.get(events[0]!.id);
  if (!stream || stream.state === "archived" || first === undefined) return undefined;
  if (!events.every(({ id }, index) => stream.versions.get(id) === first + index)) return undefined;
  const last = stream.events[first - stream.removed + events.length - 2]!;
  return { stream: name, version: last.version, position: last.position };
}

function fits(expected: ExpectedVersion, current: number): boolean {
  if (expected === "any") return true;
  if (expected === "exists") return current > 0;
  return current === (expected === "none" ? 0 : expected);
}

function filter(
  { types, category, correlationId, since, lane }: AllReadOptions,
): (recording: Recording) => boolean {
  const wanted = types && new Set(types);
  return (recording) =>
    (!wanted || wanted.has(recording.event.type)) &&
    (category === undefined || recording.event.stream.startsWith(`${category}-`)) &&
    (!lane || laneOf(recording.event.stream, lane.of) === lane.index) &&
    (correlationId === undefined || recording.correlationId === correlationId) &&
    (since === undefined || recording.at >= since);
}

/** FNV-1a over UTF-16 units (http://www.isthe.com/chongo/tech/comp/fnv/). */
function laneOf(stream: string, lanes: number): number {
  let hash = 0x811c9dc5;
  for (let at = 0; at < stream.length; at++) hash = Math.imul(hash ^ stream.charCodeAt(at), 0x01000193);
  return (hash >>> 0) % lanes;
}

function firstAfter(all: readonly Recording[], position: bigint): number {
  let low = 0;
  for (let high = all.length; low < high;) {
    const middle = (low + high) >> 1;
    if (all[middle]!.event.position <= position) low = middle + 1;
    else high = middle;
  }
  return low;
}

function conflict(stream: string, expected: ExpectedVersion, current: number): MillstreamError {
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    `Cannot append to stream "${stream}": expected version ${expected}, got ${current}`,
    { details: { stream, expected, current } },
  );
}

function conditionFailed(): MillstreamError {
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    "Cannot append: expected no event that matches the condition, but there is one",
    { details: { condition: "failIfMatches" } },
  );
}

function archived(stream: string): MillstreamError {
  return new MillstreamError(
    "REJECTED",
    `Cannot append to stream "${stream}": expected an open stream, got an archived one`,
    { details: { stream, state: "archived" } },
  );
}

function behindTheEnd(after: bigint, end: bigint): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot read after position ${after}: expected one up to ${end}, where the store ends`,
    { details: { option: "after", after: String(after), end: String(end) } },
  );
}
