/**
 * `/streams/{id}`: reading a stream, and appending to it if nobody was faster.
 *
 * @module
 */
import type { Context } from "hono";
import { describe, isMillstreamError, MillstreamError } from "../core/errors.ts";
import { formatToken } from "../core/token.ts";
import type { ExpectedVersion, StoredEvent } from "../ports/event_store.ts";
import { readEvents } from "./cloudevents.ts";
import { eventText, MAX_EVENTS, MAX_PAGE_LENGTH, READ_EVENTS } from "./events.ts";
import type { Gate } from "./options.ts";
import { httpError, withStatus } from "./problem.ts";
import { invalid, parameter, searchParams, wholeNumber } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";

const MAX_VERSION = 2 ** 31 - 1;

/** The routes of streams. */
export function streamRoutes(gate: Gate): Route[] {
  return [
    { method: "GET", path: "/streams/:id", action: "streams.read", handle: (c) => read(c, gate) },
    { method: "POST", path: "/streams/:id", action: "streams.append", handle: (c) => append(c, gate) },
  ];
}

/**
 * Events of the stream, and the version it has now as `ETag`. The version is read first and nothing newer is returned, so
 * whoever appends with it has seen everything they decided on. `next` is the `from` of the next page, if there is one.
 */
async function read(c: Context, gate: Gate): Promise<Response> {
  const stream = c.req.param("id") ?? "";
  const params = searchParams(c);
  const backwards = isBackwards(parameter(params, "direction"));
  const from = wholeNumber(params, "from", 1, MAX_VERSION);
  const limit = wholeNumber(params, "limit", 1, MAX_EVENTS) ?? 100;

  const version = await currentVersion(stream, gate, c.req.raw.signal);
  const start = backwards ? Math.min(from ?? version, version) : from ?? 1;
  const { texts, next } = await readPage(c, gate, { stream, version, start, limit, backwards });
  const text = `{"stream":${JSON.stringify(stream)},"version":${version},"next":${next},"events":[${
    texts.join(",")
  }]}`;
  return jsonResponse(text, 200, { etag: `"${version}"` });
}

interface Wanted {
  readonly stream: string;
  readonly version: number;
  readonly start: number;
  readonly limit: number;
  readonly backwards: boolean;
}

/** Reads little by little, so that a page of large events ends early instead of filling the memory. */
async function readPage(
  c: Context,
  gate: Gate,
  wanted: Wanted,
): Promise<{ texts: string[]; next: number | null }> {
  const { stream, version, limit, backwards } = wanted;
  const texts: string[] = [];
  let length = 0;
  let from = wanted.start;
  while (texts.length < limit && length < MAX_PAGE_LENGTH && from >= 1 && from <= version) {
    const options = {
      from,
      backwards,
      limit: Math.min(READ_EVENTS, limit - texts.length),
      signal: c.req.raw.signal,
    };
    const events = await gate.app.store.events.readStream(stream, options);
    if (events.length === 0) break;
    for (const event of events.filter((event) => event.version <= version)) {
      texts.push(eventText(event));
      length += event.body.length;
    }
    from = events[events.length - 1]!.version + (backwards ? -1 : 1);
  }
  return { texts, next: from >= 1 && from <= version ? from : null };
}

async function currentVersion(stream: string, gate: Gate, signal: AbortSignal): Promise<number> {
  const last: readonly StoredEvent[] = await gate.app.store.events.readStream(stream, {
    backwards: true,
    limit: 1,
    signal,
  });
  if (last[0]) return last[0].version;
  throw new MillstreamError("NOT_FOUND", `Cannot find stream ${describe(stream)}: it has no events`);
}

/**
 * Appends what the client decided on the version it names: 201 for a new stream, 200 otherwise. Repeating it with the same event
 * ids appends nothing and answers the same. 412 with the current version if another writer was faster.
 */
async function append(c: Context, gate: Gate): Promise<Response> {
  const stream = c.req.param("id") ?? "";
  const expected = expectedVersion(c);
  const events = await readEvents(c, gate);
  try {
    const { version, position } = await gate.app.appendEvents(stream, events, expected);
    const token = formatToken(position);
    const text = JSON.stringify({
      stream,
      version,
      position: token,
      ids: events.map(({ message }) => message.id),
    });
    const isNew = version === events.length;
    return jsonResponse(text, isNew ? 201 : 200, { etag: `"${version}"`, "x-position": token });
  } catch (error) {
    if (!isMillstreamError(error, "CONCURRENCY_CONFLICT")) throw error;
    const { current } = error.details;
    throw withStatus(error, 412, typeof current === "number" ? { etag: `"${current}"` } : {});
  }
}

function expectedVersion(c: Context): ExpectedVersion {
  const match = c.req.header("if-match")?.trim();
  const noneMatch = c.req.header("if-none-match")?.trim();
  if (match !== undefined && noneMatch !== undefined) {
    throw badCondition("one of If-Match and If-None-Match, not both");
  }
  if (noneMatch === "*") return "none";
  if (noneMatch !== undefined) throw badCondition("If-None-Match: *");
  if (match === "*") return "exists";
  const version = /^"(\d{1,10})"$/.exec(match ?? "")?.[1];
  if (version !== undefined && Number(version) <= MAX_VERSION) return Number(version);
  if (match !== undefined) throw badCondition('If-Match: "<version>" with one version in double quotes');
  throw httpError(
    428,
    "PRECONDITION_REQUIRED",
    'Cannot append without a condition: expected If-Match: "<version>" or If-None-Match: *',
  );
}

function badCondition(expected: string): MillstreamError {
  return new MillstreamError("INVALID_ARGUMENT", `Cannot use condition: expected ${expected}`);
}

function isBackwards(direction = "forwards"): boolean {
  if (direction === "forwards" || direction === "backwards") return direction === "backwards";
  throw invalid("direction", direction, '"forwards" or "backwards"');
}
