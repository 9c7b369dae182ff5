/**
 * Reading a topic as a log, under the same watermark as the event store: a message that commits late is waited for,
 * not skipped. A delayed message stands where it was published, and can be read before it is delivered.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { describe, MillstreamError } from "../../core/errors.ts";
import { checkName } from "../../core/names.ts";
import type { TopicLog, TopicPage, TopicReadOptions } from "../../ports/broker.ts";
import type { SqlRow } from "../../ports/sql.ts";
import { optional } from "../context.ts";
import { poll } from "../wakeup.ts";
import { horizon, type HorizonRow } from "../watermark.ts";
import type { BrokerContext } from "./context.ts";

/** The log of each topic. A position is the message's number. */
export function topicLog({ session, schema, clock, intervals, watermark, bells }: BrokerContext): TopicLog {
  async function read(topic: string, after: string, options: TopicReadOptions): Promise<TopicPage> {
    const { limit, waitMs, signal } = options;
    checkName("topic", topic);
    checkRange("limit", limit, 1, 2 ** 31 - 1, true);
    let position = after === "now" ? undefined : after === "start" ? 0n : parsePosition(after, topic);
    let isStart = after === "start";
    let gap = false;

    async function look(): Promise<TopicPage | undefined> {
      const values = [...watermark.values({ mayMark: true }), topic, position ?? null, limit];
      const rows = await session.query<HorizonRow & EntryRow>(readSql(schema), values);
      const [first] = rows;
      if (!first) return undefined;
      const safe = watermark.learn(first);
      const trimmed = BigInt(first.trimmed);
      const newest = BigInt(first.newest);
      if (position === undefined) {
        position = newest > trimmed ? newest : trimmed;
        return undefined;
      }
      gap ||= !isStart && position < trimmed;
      isStart = false;
      const entries = rows.filter((row) => row.pos !== null).map(entry);
      const lookedTo = entries.length === limit
        ? BigInt(entries.at(-1)?.position ?? 0)
        : safe > trimmed
        ? safe
        : trimmed;
      if (lookedTo > position) position = lookedTo;
      return entries.length > 0 || gap ? { entries, next: String(position), gap } : undefined;
    }

    const page = await poll(look, { clock, intervals, bell: bells.get(topic), waitMs, signal });
    return page ?? { entries: [], next: String(position ?? 0n), gap: false };
  }

  return { read };
}

/**
 * `$1` to `$4` see {@linkcode horizon}; `$5` topic, `$6` after (null: none), `$7` limit. At least one row comes back;
 * without entries it has nulls in their place.
 */
const readSql = (schema: string): string =>
  `with ${horizon(`${schema}.messages`)}
select h.*, coalesce(t.trimmed, 0) as trimmed, e.* from horizon h
left join ${schema}.topics t on t.name = $5::text
left join lateral (
  select m.pos, m.id, m.type, m.key, m.body from ${schema}.messages m
  where m.topic_id = t.id and m.pos > $6::bigint and m.pos <= h.safe order by m.pos limit $7::int
) e on true order by e.pos`;

interface EntryRow extends SqlRow {
  readonly trimmed: string;
  readonly pos: string;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
}

function entry({ pos, id, type, key, body }: EntryRow): TopicPage["entries"][number] {
  return { id, type, ...optional("key", key), body, position: pos };
}

function parsePosition(after: string, topic: string): bigint {
  if (/^\d{1,18}$/.test(after)) return BigInt(after);
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot read topic "${topic}" after ${
      describe(after)
    }: expected "start", "now" or a position from an earlier read`,
  );
}
