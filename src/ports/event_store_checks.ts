/**
 * What every event store refuses before it does anything, so that all refuse the same.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkName, checkText, hasLoneSurrogate } from "../core/names.ts";
import type {
  AppendCondition,
  EventQuery,
  EventToAppend,
  ExpectedVersion,
  StreamAppend,
  StreamChange,
  StreamChangeOptions,
} from "./event_store.ts";

/** The largest body an event store takes. What an application encodes is bounded to less by its codec. */
export const MAX_EVENT_BYTES = 8_388_608;
/** Versions are 32 bit. */
export const MAX_VERSION = 2_147_483_647;

const MAX_TAGS = 16;
const MAX_QUERIES = 16;
const MAX_TYPES = 1_000;
const MAX_METADATA = 65_536;
const MAX_POSITION = 2n ** 63n - 1n;

/** Refuses bad appends with `INVALID_ARGUMENT` or `PAYLOAD_TOO_LARGE`. */
export function checkAppends(appends: readonly StreamAppend[], condition?: AppendCondition): void {
  if (appends.length === 0) throw invalid("nothing", "expected at least one stream");
  const streams = new Set<string>();
  for (const { stream, expected, events } of appends) {
    checkText("stream", stream);
    if (streams.has(stream)) throw invalid(describe(stream), "expected each stream once");
    streams.add(stream);
    checkExpected(stream, expected);
    if (events.length === 0) throw invalid(describe(stream), "expected at least one event");
    const ids = new Set<string>();
    for (const event of events) {
      checkEvent(event);
      if (ids.has(event.id)) throw invalid(describe(stream), `expected event id ${describe(event.id)} once`);
      ids.add(event.id);
    }
  }
  if (!condition) return;
  checkQueries(condition.failIfMatches);
  checkPosition("condition.after", condition.after);
}

/** Refuses changes of a stream that make no sense. */
export function checkChange(
  stream: string,
  { state, truncateBefore, metadata }: StreamChange,
  { expected }: StreamChangeOptions,
): void {
  checkText("stream", stream);
  if (state !== undefined && !["open", "deleted", "archived"].includes(state)) {
    throw badChange("state", `"open", "deleted" or "archived", got ${describe(state)}`);
  }
  if (truncateBefore !== undefined) checkRange("truncateBefore", truncateBefore, 1, MAX_VERSION, true);
  if (expected !== undefined) checkRange("expected", expected, 0, MAX_VERSION, true);
  if (metadata === undefined || metadata === null) return;
  if (
    typeof metadata !== "string" || metadata.length > MAX_METADATA || metadata.includes("\0") ||
    hasLoneSurrogate(metadata)
  ) {
    throw badChange("metadata", `text of up to ${MAX_METADATA} characters`);
  }
}

/** Refuses queries that name no tag, or too many. */
export function checkQueries(queries: readonly EventQuery[]): void {
  checkLength("queries", queries, 1, MAX_QUERIES);
  for (const { tags, types } of queries) {
    checkTags(tags, 1);
    if (types === undefined) continue;
    checkLength("types", types, 1, MAX_TYPES);
    for (const type of types) checkText("event type", type, 512);
  }
}

/** Refuses what is no position. */
export function checkPosition(option: string, position: bigint): void {
  if (typeof position === "bigint" && position >= 0n && position <= MAX_POSITION) return;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "${option}": expected a position, a bigint from 0, got ${describe(position)}`,
    { details: { option } },
  );
}

function checkEvent({ id, type, key, topic, correlationId, tags, body }: EventToAppend): void {
  checkText("event id", id, 512);
  checkText("event type", type, 512);
  if (key !== undefined) checkText("key", key, 512);
  if (topic !== undefined) checkName("topic", topic);
  if (correlationId !== undefined) checkText("correlation id", correlationId, 512);
  if (tags !== undefined) checkTags(tags, 0);
  checkBody(id, body);
}

function checkBody(id: string, body: string): void {
  if (typeof body !== "string" || body.includes("\0") || hasLoneSurrogate(body)) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot append event ${
        describe(id)
      }: expected a body of text without NUL characters and lone surrogates`,
      { details: { id } },
    );
  }
  // A UTF-16 unit takes at most three bytes and at least one: count only where the answer is open.
  if (body.length * 3 <= MAX_EVENT_BYTES) return;
  const bytes = body.length > MAX_EVENT_BYTES ? body.length : new TextEncoder().encode(body).length;
  if (bytes <= MAX_EVENT_BYTES) return;
  throw new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot append event ${describe(id)}: ${bytes} bytes or more, the limit is ${MAX_EVENT_BYTES}. ` +
      "Store large data elsewhere and append a reference",
    { details: { id, bytes, maxBytes: MAX_EVENT_BYTES } },
  );
}

function checkTags(tags: readonly string[], min: number): void {
  checkLength("tags", tags, min, MAX_TAGS);
  for (const tag of tags) checkText("tag", tag);
  if (new Set(tags).size < tags.length) throw invalid("an event", "expected each tag once");
}

function checkLength(what: string, list: readonly unknown[], min: number, max: number): void {
  if (!Array.isArray(list)) {
    throw invalid(what, `expected a list, got ${describe(list)}`);
  }
  checkRange(`${what}.length`, list.length, min, max, true);
}

function checkExpected(stream: string, expected: ExpectedVersion): void {
  if (expected === "any" || expected === "none" || expected === "exists") return;
  if (Number.isInteger(expected) && expected >= 0 && expected <= MAX_VERSION) return;
  throw invalid(
    describe(stream),
    `expected a version from 0, "any", "none" or "exists", got ${describe(expected)}`,
  );
}

function invalid(what: string, why: string): MillstreamError {
  return new MillstreamError("INVALID_ARGUMENT", `Cannot append to ${what}: ${why}`);
}

function badChange(option: string, expected: string): MillstreamError {
  return new MillstreamError("INVALID_ARGUMENT", `Cannot use option "${option}": expected ${expected}`, {
    details: { option },
  });
}
