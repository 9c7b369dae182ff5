/**
 * The outbox on Postgres. Sent messages stay for a while, so that they can be sent again to a broker that lost them.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import { checkName, checkText } from "../core/names.ts";
import type { Lease } from "../ports/leases.ts";
import type { Outbox, OutboxEntry, OutboxMessage } from "../ports/outbox.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";
import { columns, optional } from "./context.ts";
import { leaseLost } from "./leases.ts";

/** An outbox on a session. @param schema Quoted. */
export function outbox(session: SqlSession, schema: string): Outbox {
  async function add(messages: readonly OutboxMessage[]): Promise<void> {
    for (const message of messages) checkMessage(message);
    if (messages.length === 0) return;
    await session.query(
      addSql(schema),
      columns(
        messages,
        ({ topic }) => topic,
        ({ id }) => id,
        ({ type }) => type,
        ({ key }) => key,
        ({ body }) => body,
      ),
    );
  }

  async function pending(limit: number): Promise<readonly OutboxEntry[]> {
    const rows = await session.query<OutboxRow>(pendingSql(schema), [limit]);
    return rows.map(({ pos, topic, id, type, key, body }) => ({
      position: BigInt(pos),
      topic,
      id,
      type,
      ...optional("key", key),
      body,
    }));
  }

  async function markSent(positions: readonly bigint[], lease: Lease): Promise<void> {
    const values = [positions, lease.name, lease.owner, lease.epoch];
    const [row] = await session.query<{ held: boolean }>(markSentSql(schema), values);
    if (!row?.held) throw leaseLost(lease);
  }

  async function oldestAgeMs(): Promise<number> {
    const [row] = await session.query<{ age: number }>(oldestAgeSql(schema));
    return Math.max(0, row?.age ?? 0);
  }

  return { add, pending, markSent, oldestAgeMs };
}

/** `$1` topics, `$2` ids, `$3` types, `$4` keys, `$5` bodies. */
const addSql = (schema: string): string =>
  `insert into ${schema}.outbox (topic, id, type, key, body)
select u.topic, u.id, u.type, u.key, u.body
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) with ordinality u(topic, id, type, key, body, nth)
order by u.nth`;

/**
 * `$1` limit. Looks for what is unsent, not for what is new since the last look: a message that commits late is sent
 * late, and never left behind. The order keeps each stream's order, because an append draws its positions while it
 * holds the stream's row.
 */
const pendingSql = (schema: string): string =>
  `select pos, topic, id, type, key, body from ${schema}.outbox where sent_at is null order by pos limit $1::int`;

/** `$1` positions, `$2` name, `$3` owner and `$4` epoch of the lease. Marks nothing if the lease is lost. */
const markSentSql = (schema: string): string =>
  `with held as materialized (
  select from ${schema}.leases
  where name = $2::text and owner = $3::text and epoch = $4::int and expires_at > clock_timestamp() for share
), marked as (
  update ${schema}.outbox set sent_at = clock_timestamp()
  where pos = any($1::bigint[]) and sent_at is null and exists (select from held)
)
select exists (select from held) as held`;

const oldestAgeSql = (schema: string): string =>
  `select (extract(epoch from clock_timestamp() - created_at) * 1000)::float8 as age
from ${schema}.outbox where sent_at is null order by pos limit 1`;

/**
 * Forgets messages sent more than `$1` milliseconds ago, at most `$2` of them. Looks at the oldest rows only, which
 * costs the same however many there are.
 */
export const pruneOutboxSql = (schema: string): string =>
  `with oldest as (
  select pos, sent_at from ${schema}.outbox order by pos limit $2::int
), gone as (
  delete from ${schema}.outbox o using oldest
  where o.pos = oldest.pos and oldest.sent_at <= clock_timestamp() - $1::float8 * interval '1 millisecond'
  returning 1
)
select count(*)::int as deleted from gone`;

interface OutboxRow extends SqlRow {
  readonly pos: string;
  readonly topic: string;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
}

/** Refuses what no broker would carry, while the transaction can still be undone. */
function checkMessage({ topic, id, type, key, body }: OutboxMessage): void {
  checkName("topic", topic);
  checkText("message id", id, 512);
  checkText("message type", type, 512);
  if (key !== undefined) checkText("key", key, 512);
  if (typeof body !== "string") {
    throw new MillstreamError("INVALID_ARGUMENT", "Cannot add to the outbox: body must be text");
  }
}
