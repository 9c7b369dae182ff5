/**
 * A topic as a log, for readers without a group. Readers that wait share one connection for each topic: it follows the
 * end of the log and wakes them; what they read they read by themselves, each from its own place.
 *
 * @module
 */
import { backoffDelay, checkRange, retryPolicy } from "../core/backoff.ts";
import { aborted, type Clock, sleep } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { TopicLog, TopicPage, TopicReadOptions } from "../ports/broker.ts";
import type { RedisConnection, RedisDriver } from "../ports/redis.ts";
import type { RawEntry } from "./delivery.ts";
import { decodeMessageFields } from "./entry.ts";
import { topicKeys } from "./keys.ts";
import { READ_LOG } from "./lua/log.ts";
import { asUnavailable } from "./replies.ts";

/** What {@linkcode topicLog} needs. */
export interface LogContext {
  readonly driver: RedisDriver;
  readonly connection: RedisConnection;
  readonly clock: Clock;
  readonly prefix: string;
  readonly timeoutMs: number;
}

/** A {@linkcode TopicLog} that can be closed. */
export interface ClosableLog extends TopicLog {
  /** Ends waiting reads with what they have: nothing. */
  close(): Promise<void>;
}

const BLOCK_MS = 1_500;
const GRACE_MS = 2_500;
/** A connection that nobody waits on is kept this long for the next who does. */
const LINGER_MS = 5_000;
const BACKOFF = retryPolicy({ attempts: 1, baseMs: 50, factor: 2, maxMs: 1_000 });

/** Creates the log of a broker. */
export function topicLog(context: LogContext): ClosableLog {
  const { connection, clock, prefix, timeoutMs } = context;
  const tails = new Map<string, Tail>();
  let closed = false;

  async function read(
    topic: string,
    after: string,
    { limit, waitMs, signal }: TopicReadOptions,
  ): Promise<TopicPage> {
    checkName("topic", topic);
    checkRange("limit", limit, 1, 10_000, true);
    checkRange("waitMs", waitMs, 0, 86_400_000);
    const position = checkPosition(topic, after);
    const deadline = clock.monotonic() + waitMs;
    if (signal?.aborted) throw aborted(signal);
    let page = await readOnce(topic, position, limit);
    let gap = page.gap;
    while (page.entries.length === 0 && !closed) {
      if (signal?.aborted) throw aborted(signal);
      const left = deadline - clock.monotonic();
      if (left <= 0) break;
      // Listen first, then look: what is added in between is seen by one of the two.
      const from = checkPosition(topic, page.next);
      const news = listen(topic, from.id, Math.min(left, page.wakeMs), signal);
      try {
        page = await readOnce(topic, from, limit);
        if (page.entries.length === 0) {
          await news.heard;
          gap ||= page.gap;
          page = await readOnce(topic, checkPosition(topic, page.next), limit);
        }
        gap ||= page.gap;
      } finally {
        news.stop();
      }
    }
    return { entries: page.entries, next: page.next, gap };
  }

  async function readOnce(topic: string, position: Position, limit: number): Promise<Page> {
    const { log, delayed, delayedIds } = topicKeys(prefix, topic);
    try {
      const args = [position.id, position.number, limit];
      const reply = await connection.script(READ_LOG, [log, delayed, delayedIds], args, { timeoutMs });
      const [last, added, gap, before, wakeMs, raw] = reply as unknown as ReadReply;
      const entries = raw.map(([id, fields], index) => ({
        ...decodeMessageFields(id, fields),
        position: positionText({ id, number: id === last ? added : before + index + 1 }),
      }));
      const atEnd = gap === 1 || position.id === "now";
      const stay = atEnd ? { id: last, number: added } : { id: position.id, number: Math.max(0, before) };
      const next = entries[entries.length - 1]?.position ?? positionText(stay);
      return { entries, next, gap: gap === 1, wakeMs: wakeMs < 0 ? Infinity : wakeMs + 1 };
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  /** Hears of entries after `position` that are new from now on, at the latest after `ms`. */
  function listen(topic: string, position: string, ms: number, signal: AbortSignal | undefined): News {
    const tail = tails.get(topic) ?? startTail(topic, position);
    let stop = (): void => {};
    const heard = new Promise<void>((resolve, reject) => {
      const onAbort = (): void => reject(aborted(signal));
      const cancel = clock.after(ms, resolve);
      tail.waiting.add(resolve);
      tail.woken?.();
      signal?.addEventListener("abort", onAbort, { once: true });
      stop = () => {
        cancel();
        tail.waiting.delete(resolve);
        signal?.removeEventListener("abort", onAbort);
      };
    });
    heard.catch(() => {});
    return { heard, stop: () => stop() };
  }

  function startTail(topic: string, position: string): Tail {
    const tail: Tail = {
      waiting: new Set(),
      connection: context.driver.connect(`log:${topic}`),
      woken: undefined,
    };
    tails.set(topic, tail);
    void follow(topic, tail, position);
    return tail;
  }

  /** Wakes everyone who waits whenever the log grows; ends when nobody has waited for a while. */
  async function follow(topic: string, tail: Tail, position: string): Promise<void> {
    const { log } = topicKeys(prefix, topic);
    const graceMs = Math.min(GRACE_MS, timeoutMs);
    let last = position;
    let failures = 0;
    while (!closed && (tail.waiting.size > 0 || await someoneComes(tail))) {
      try {
        const args = ["count", 1, "block", BLOCK_MS, "streams", log, last];
        const news = await tail.connection.call("xread", args, { timeoutMs: BLOCK_MS + graceMs });
        failures = 0;
        if (!news) continue;
        // One wake for all that has come by now, not one for each entry.
        const newest = await tail.connection.call("xrevrange", [log, "+", "-", "count", 1], {
          timeoutMs: graceMs,
        });
        last = (newest as readonly RawEntry[])[0]?.[0] ?? last;
        wakeAll(tail);
      } catch {
        // Those who wait look by themselves then, and report what they meet.
        wakeAll(tail);
        await sleep(clock, backoffDelay(++failures, BACKOFF) + 10);
      }
    }
    tails.delete(topic);
    wakeAll(tail);
    await tail.connection[Symbol.asyncDispose]();
  }

  function someoneComes(tail: Tail): Promise<boolean> {
    return new Promise((resolve) => {
      const cancel = clock.after(LINGER_MS, () => resolve(tail.waiting.size > 0));
      tail.woken = () => {
        tail.woken = undefined;
        cancel();
        resolve(true);
      };
    });
  }

  async function close(): Promise<void> {
    closed = true;
    const open = [...tails.values()];
    for (const tail of open) {
      wakeAll(tail);
      tail.woken?.();
    }
    await Promise.all(open.map((tail) => tail.connection[Symbol.asyncDispose]()));
  }

  return { read, close };
}

interface News {
  /** Resolves when there is something new or the time is up; rejects when the signal aborts. */
  readonly heard: Promise<void>;
  stop(): void;
}

interface Page extends TopicPage {
  readonly wakeMs: number;
}

interface Tail {
  readonly waiting: Set<() => void>;
  readonly connection: RedisConnection;
  woken: (() => void) | undefined;
}

type ReadReply = readonly [
  last: string,
  added: number,
  gap: number,
  before: number,
  wakeMs: number,
  entries: readonly RawEntry[],
];

/** A place in a log: the id of an entry, and how many were ever added up to it, by which a gap is recognised. */
interface Position {
  readonly id: string;
  readonly number: number;
}

function wakeAll(tail: Tail): void {
  for (const wake of tail.waiting) wake();
}

function positionText({ id, number }: Position): string {
  return `${id}_${number}`;
}

function checkPosition(topic: string, after: string): Position {
  if (after === "start") return { id: "0-0", number: -1 };
  if (after === "now") return { id: "now", number: 0 };
  const [, id, number] = (typeof after === "string" && /^(\d{1,20}-\d{1,20})_(\d{1,15})$/.exec(after)) || [];
  if (id !== undefined) return { id, number: Number(number) };
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot read topic "${topic}" after ${
      describe(after)
    }: expected a position of this topic, "start" or "now"`,
    { details: { topic } },
  );
}
