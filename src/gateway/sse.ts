/**
 * A topic as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html): the client pulls, and
 * nothing is read from the broker before it does. So a slow client costs at most one chunk, and a dead one nothing.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { EncodedMessage } from "../core/message.ts";
import type { TopicLog, TopicPage } from "../ports/broker.ts";

/** Entries asked of the broker at once. */
export const PAGE_ENTRIES = 64;
/** A chunk ends with the entry that reaches this many characters; what the page holds beyond it is read again later. */
const CHUNK_LENGTH = 262_144;
/** Milliseconds after which a client that lost its connection comes back. */
const RETRY_MS = 3_000;
/** Names that mean something else to a client. Events of these types arrive unnamed. */
const CONTROL_NAMES = new Set(["gap", "open", "error", "message"]);

/** What to send to whom. */
export interface FeedOptions {
  readonly log: TopicLog;
  readonly topic: string;
  /** Where `first` was read. */
  readonly after: string;
  /** The first page, so that a position nobody can read from is refused before the response begins. */
  readonly first: TopicPage;
  readonly wanted: (message: EncodedMessage) => boolean;
  readonly clock: Clock;
  readonly heartbeatMs: number;
  readonly stallMs: number;
  /** Called once, whatever ended it: the client, a stall, an error (then given), or `close`. */
  readonly onEnd: (error?: unknown) => void;
}

/** A running stream of events. */
export interface Feed {
  readonly body: ReadableStream<Uint8Array<ArrayBuffer>>;
  /** Ends the stream; the client will come back with its last position. Idempotent. */
  close(): void;
}

/** Starts a stream. Every byte of it is made by {@linkcode nextChunk} when the client asks for it. */
export function feed(options: FeedOptions): Feed {
  const { clock, stallMs, onEnd } = options;
  const stop = new AbortController();
  const cursor: Cursor = {
    ...options,
    signal: stop.signal,
    page: options.first,
    opened: false,
    lastMs: clock.monotonic(),
  };
  const encoder = new TextEncoder();
  let controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
  let disarm = clock.after(stallMs, close);

  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(given) {
      controller = given;
    },
    async pull() {
      disarm();
      try {
        const chunk = await nextChunk(cursor);
        if (stop.signal.aborted) return;
        controller.enqueue(encoder.encode(chunk));
        disarm = clock.after(stallMs, close);
      } catch (error) {
        end(error);
      }
    },
    cancel: close,
  }, { highWaterMark: 0 });

  return { body, close };

  function close(): void {
    end();
  }

  function end(error?: unknown): void {
    if (stop.signal.aborted) return;
    disarm();
    stop.abort();
    try {
      controller.close();
    } catch {
      // Cancelled by the client: closed already.
    }
    onEnd(error);
  }
}

interface Cursor extends Pick<FeedOptions, "log" | "topic" | "wanted" | "clock" | "heartbeatMs"> {
  readonly signal: AbortSignal;
  after: string;
  page: TopicPage | undefined;
  opened: boolean;
  lastMs: number;
}

/** What the client gets next: events, or a heartbeat once it is due. */
async function nextChunk(cursor: Cursor): Promise<string> {
  const { log, topic, clock, heartbeatMs, signal } = cursor;
  for (;;) {
    const dueMs = Math.max(0, cursor.lastMs + heartbeatMs - clock.monotonic());
    const page = cursor.page ??
      await log.read(topic, cursor.after, { limit: PAGE_ENTRIES, waitMs: dueMs, signal });
    cursor.page = undefined;
    const chunk = opening(cursor, page) + frames(cursor, page);
    if (chunk === "" && clock.monotonic() < cursor.lastMs + heartbeatMs) continue;
    cursor.lastMs = clock.monotonic();
    return chunk || `: heartbeat\n${idLine(cursor.after)}\n`;
  }
}

/** Tells the client its position before there is any event, so that it resumes from here if the line breaks now. */
function opening(cursor: Cursor, page: TopicPage): string {
  if (cursor.opened) return "";
  cursor.opened = true;
  return `retry: ${RETRY_MS}\n${page.entries.length === 0 ? idLine(page.next) : ""}\n`;
}

/** The entries that are wanted, up to the size of a chunk. Moves the cursor behind the last one looked at. */
function frames(cursor: Cursor, page: TopicPage): string {
  let text = page.gap ? `event: gap\ndata: ${JSON.stringify({ after: cursor.after })}\n\n` : "";
  for (const entry of page.entries) {
    cursor.after = entry.position;
    if (!cursor.wanted(entry)) continue;
    text += `${idLine(entry.position)}${eventLine(entry.type)}${dataLines(entry.body)}\n`;
    if (text.length >= CHUNK_LENGTH) return text;
  }
  cursor.after = page.next;
  return text;
}

/** An `id` without data moves the client's position and is not dispatched as an event. */
function idLine(position: string): string {
  return /^[A-Za-z0-9_-]{1,128}$/.test(position) && position !== "start" && position !== "now"
    ? `id: ${position}\n`
    : "";
}

function eventLine(type: string): string {
  return /^[\w.-]{1,200}$/.test(type) && !CONTROL_NAMES.has(type) ? `event: ${type}\n` : "";
}

/** Bodies are one line; one from elsewhere that is not becomes several, which the client joins again. */
function dataLines(body: string): string {
  return body.split(/\r\n|\r|\n/).map((line) => `data: ${line}\n`).join("");
}
