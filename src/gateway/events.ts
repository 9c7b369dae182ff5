/**
 * `/events`: all streams together, in the order of the store.
 *
 * @module
 */
import type { Context } from "hono";
import { checkText } from "../core/names.ts";
import { formatToken, parseToken } from "../core/token.ts";
import type { StoredEvent } from "../ports/event_store.ts";
import type { Gate } from "./options.ts";
import { invalid, names, parameter, searchParams, wholeNumber } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";

/** Events in one response at most. */
export const MAX_EVENTS = 1_000;
/** Events asked of the store at once. */
export const READ_EVENTS = 64;
/** A page ends with the read that reaches this many characters. */
export const MAX_PAGE_LENGTH = 4_194_304;

/** The route of all events. */
export function eventRoutes(gate: Gate): Route[] {
  return [{ method: "GET", path: "/events", action: "events.read", handle: (c) => readAll(c, gate) }];
}

/** `next` is where to read on. A page of large events ends before `limit`; an empty one means that nothing follows yet. */
async function readAll(c: Context, gate: Gate): Promise<Response> {
  const params = searchParams(c);
  const types = names(params, "type", 100);
  const since = readTime(parameter(params, "since"));
  const correlationId = parameter(params, "correlationid");
  if (correlationId !== undefined) checkText('parameter "correlationid"', correlationId);
  const limit = wholeNumber(params, "limit", 1, MAX_EVENTS) ?? 100;
  const filter = {
    ...(types === undefined ? {} : { types }),
    ...(since === undefined ? {} : { since }),
    ...(correlationId === undefined ? {} : { correlationId }),
    signal: c.req.raw.signal,
  };

  const texts: string[] = [];
  let length = 0;
  let after = parseToken(parameter(params, "after") ?? "0");
  for (let more = true; more && texts.length < limit && length < MAX_PAGE_LENGTH;) {
    const count = Math.min(READ_EVENTS, limit - texts.length);
    const page = await gate.app.store.events.readAll(after, { ...filter, limit: count });
    for (const event of page.events) {
      texts.push(eventText(event));
      length += event.body.length;
    }
    more = page.events.length === count;
    after = page.position;
  }
  return jsonResponse(`{"next":${JSON.stringify(formatToken(after))},"events":[${texts.join(",")}]}`, 200);
}

/**
 * The event as it is stored, byte for byte, and behind it its place as CloudEvents extensions. They come last because the last
 * of two equal names counts: an event cannot pretend to be elsewhere.
 */
export function eventText({ body, stream, version, position }: StoredEvent): string {
  const place = `"stream":${JSON.stringify(stream)},"streamversion":${version},"position":"${
    formatToken(position)
  }"`;
  return `${body.slice(0, body.lastIndexOf("}"))},${place}}`;
}

/** RFC 3339, or milliseconds since 1970. */
function readTime(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const time = /^\d{1,15}$/.test(text)
    ? Number(text)
    : /^\d{4}-\d\d-\d\d/.test(text)
    ? Date.parse(text)
    : NaN;
  if (Number.isFinite(time)) return time;
  throw invalid("since", text, "RFC 3339 or milliseconds since 1970");
}
