/**
 * `/topics/{topic}`: publishing events, and following them.
 *
 * @module
 */
import type { Context } from "hono";
import { describe, MillstreamError } from "../core/errors.ts";
import type { EncodedMessage } from "../core/message.ts";
import { checkText } from "../core/names.ts";
import type { TopicLog, TopicPage } from "../ports/broker.ts";
import { readEvents } from "./cloudevents.ts";
import type { Gate } from "./options.ts";
import { httpError, SAFE_HEADERS } from "./problem.ts";
import { invalid, names, parameter, searchParams } from "./request.ts";
import { jsonResponse, type Route } from "./route.ts";
import { type Feed, feed, PAGE_ENTRIES } from "./sse.ts";

/** The routes of topics. */
export function topicRoutes(gate: Gate): Route[] {
  const subscribe = subscriber(gate);
  return [
    { method: "POST", path: "/topics/:topic", action: "topics.publish", handle: (c) => publish(c, gate) },
    { method: "GET", path: "/topics/:topic/events", action: "topics.subscribe", handle: subscribe },
  ];
}

/** 202 once the broker has the events. The client's ids make repeating it safe. */
async function publish(c: Context, gate: Gate): Promise<Response> {
  const topic = declaredTopic(c, gate);
  const events = await readEvents(c, gate);
  const { ids } = await gate.app.publishEvents(topic, events);
  return jsonResponse(JSON.stringify({ ids }), 202);
}

/** Opens streams, counts them, and ends them all when the gateway is closed. */
function subscriber(gate: Gate): (c: Context) => Promise<Response> {
  const open = new Set<Feed | symbol>(); // a symbol holds the place of one that is being opened
  gate.signal?.addEventListener("abort", () => {
    for (const one of open) if (typeof one === "object") one.close();
  }, { once: true });

  return async (c) => {
    const topic = declaredTopic(c, gate);
    const log = logOf(gate);
    const wanted = filter(c);
    const after = startingPoint(c);
    if (c.req.method === "HEAD") return new Response(null, { headers: STREAM_HEADERS });
    if (open.size >= gate.maxStreams) throw tooManyStreams(gate);
    const place = Symbol();
    open.add(place);
    try {
      const first = await log.read(topic, after, {
        limit: PAGE_ENTRIES,
        waitMs: 0,
        signal: c.req.raw.signal,
      });
      return start(c, { topic, log, wanted, after, first });
    } finally {
      open.delete(place);
    }
  };

  function start(
    c: Context,
    source: { topic: string; log: TopicLog; wanted: Wanted; after: string; first: TopicPage },
  ): Response {
    if (gate.signal?.aborted) {
      throw new MillstreamError("CLOSED", "Cannot open stream: the gateway is closed");
    }
    const { clock, heartbeatMs, stallMs } = gate;
    const request = c.req.raw;
    const stream = feed({ ...source, clock, heartbeatMs, stallMs, onEnd });
    open.add(stream);
    if (request.signal.aborted) stream.close();
    else request.signal.addEventListener("abort", stream.close, { once: true });
    return new Response(stream.body, { headers: STREAM_HEADERS });

    function onEnd(error?: unknown): void {
      open.delete(stream);
      request.signal.removeEventListener("abort", stream.close);
      if (error !== undefined) gate.report(error, request);
    }
  }
}

const STREAM_HEADERS: Readonly<Record<string, string>> = {
  ...SAFE_HEADERS,
  "content-type": "text/event-stream; charset=utf-8",
  "cache-control": "no-store, no-transform",
  "x-accel-buffering": "no", // nginx would hold events back
};

type Wanted = (message: EncodedMessage) => boolean;

function filter(c: Context): Wanted {
  const params = searchParams(c);
  const types = names(params, "types", 100);
  const key = parameter(params, "key");
  if (key !== undefined) checkText('parameter "key"', key, 512);
  const known = types && new Set(types);
  return (message) => (!known || known.has(message.type)) && (key === undefined || message.key === key);
}

/** After the client's last event, or from `now`, or from the `start` of what is kept. */
function startingPoint(c: Context): string {
  const params = searchParams(c);
  const last = c.req.header("last-event-id") || parameter(params, "lastEventId");
  const from = parameter(params, "from") ?? "now";
  if (from !== "now" && from !== "start") throw invalid("from", from, '"now" or "start"');
  if (last === undefined) return from;
  if (/^[A-Za-z0-9_-]{1,128}$/.test(last) && last !== "now" && last !== "start") return last;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot resume after ${describe(last)}: expected the id of an event of this topic`,
  );
}

function declaredTopic(c: Context, gate: Gate): string {
  const topic = c.req.param("topic") ?? "";
  if (gate.app.declared.topics.has(topic)) return topic;
  throw new MillstreamError("UNKNOWN_TOPIC", `Cannot find topic ${describe(topic)}: it is not declared`);
}

function logOf(gate: Gate): TopicLog {
  const { log, features } = gate.app.broker;
  if (log) return log;
  throw new MillstreamError("UNSUPPORTED", `Cannot follow a topic on ${features.name}: it keeps no log`);
}

function tooManyStreams(gate: Gate): Error {
  return httpError(
    429,
    "TOO_MANY_STREAMS",
    `Cannot open stream: ${gate.maxStreams} are open, which is the limit`,
  );
}
