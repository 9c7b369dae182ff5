/**
 * A topic's stream as a log that many may read. One call for each entry; who waits at the end is woken by the messages
 * themselves, which a plain subscription sees go by.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { aborted, type Clock } from "../../src/core/clock.ts";
import { describe, isMillstreamError, MillstreamError } from "../../src/core/errors.ts";
import { checkName } from "../../src/core/names.ts";
import type { TopicLog, TopicPage, TopicReadOptions } from "../../src/ports/broker.ts";
import { readStored, type Stored } from "./stored.ts";
import type { Link } from "./link.ts";
import { fromNats } from "./message.ts";
import type { Streams } from "./streams.ts";

/** What {@linkcode topicLog} needs. */
export interface LogParts {
  readonly link: Link;
  readonly streams: Streams;
  readonly clock: Clock;
}

interface State {
  readonly first_seq: number;
  readonly last_seq: number;
}

type Entry = TopicPage["entries"][number];

/** The log of every topic. Positions are places in the stream. */
export function topicLog({ link, streams, clock }: LogParts): TopicLog {
  async function stateOf(topic: string): Promise<State> {
    const what = `read "${topic}"`;
    return (await link.api<{ state: State }>(what, `STREAM.INFO.${streams.stream(topic)}`)).state;
  }

  /** The next entry at or after a place that everybody gets, and not one group alone. */
  async function next(topic: string, seq: number): Promise<Entry & { readonly seq: number } | undefined> {
    const request = { seq, next_by_subj: streams.subject(topic) };
    try {
      const stored = await link.api<Stored>(
        `read "${topic}"`,
        `STREAM.MSG.GET.${streams.stream(topic)}`,
        request,
      );
      const { seq: at, raw } = readStored(stored);
      const { message } = fromNats(raw, `${topic}:${at}`);
      return { ...message, position: String(at), seq: at };
    } catch (error) {
      if (isMillstreamError(error, "NOT_FOUND")) return undefined;
      throw error;
    }
  }

  async function read(topic: string, after: string, options: TopicReadOptions): Promise<TopicPage> {
    const { limit, waitMs, signal } = options;
    checkName("topic", topic);
    checkRange("limit", limit, 1, 10_000, true);
    checkRange("waitMs", waitMs, 0, 86_400_000);
    if (signal?.aborted) throw aborted(signal);
    const from = after === "start" || after === "now" ? undefined : placeOf(topic, after);
    const end = clock.monotonic() + waitMs;
    await streams.ensureTopic(topic);
    const news = await listen(topic, signal);
    try {
      const { first_seq, last_seq } = await stateOf(topic);
      if (from !== undefined && from > last_seq) throw noPosition(topic, after);
      const place = from ?? (after === "now" ? last_seq : Math.max(0, first_seq - 1));
      // What was dropped after the place; what was dropped before it is not missed.
      const gap = from !== undefined && from + 1 < first_seq;
      for (;;) {
        const entries: Entry[] = [];
        for (let seq = place + 1; entries.length < limit;) {
          const found = await next(topic, seq);
          if (!found) break;
          const { seq: at, ...entry } = found;
          entries.push(entry);
          seq = at + 1;
        }
        const left = end - clock.monotonic();
        if (entries.length > 0 || left <= 0 || gap) {
          const last = entries.at(-1)?.position ?? String(gap ? first_seq - 1 : place);
          return { entries, next: last, gap };
        }
        await news.wait(left);
        if (signal?.aborted) throw aborted(signal);
      }
    } finally {
      news.stop();
    }
  }

  /** Hears what is published from now on. */
  async function listen(
    topic: string,
    signal: AbortSignal | undefined,
  ): Promise<{ wait(ms: number): Promise<void>; stop(): void }> {
    const connection = await link.connection();
    let heard = false;
    let wake = (): void => {};
    const notice = (): void => {
      heard = true;
      wake();
    };
    const inlet = connection.subscribe(streams.subject(topic), { callback: notice });
    signal?.addEventListener("abort", notice, { once: true });
    return {
      wait(ms) {
        return new Promise((resolve) => {
          // It is published before the stream has it: looking once more later makes up for that.
          const cancel = clock.after(heard ? Math.min(ms, 20) : Math.min(ms, 1_000), () => wake());
          wake = () => {
            cancel();
            resolve();
          };
          heard = false;
        });
      },
      stop() {
        signal?.removeEventListener("abort", notice);
        if (!connection.isClosed()) inlet.unsubscribe();
      },
    };
  }

  return { read };
}

function placeOf(topic: string, position: string): number {
  const place = /^(0|[1-9]\d{0,15})$/.test(position) ? Number(position) : NaN;
  if (Number.isSafeInteger(place)) return place;
  throw noPosition(topic, position);
}

function noPosition(topic: string, position: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot read "${topic}" after ${describe(position)}: expected a position of this topic`,
  );
}
