/**
 * The outbox on Postgres. Sent messages stay for a while, so that they can be sent again to a broker that lost them.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName, checkText } from "../core/names.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { Lease } from "../ports/leases.ts";
import type { Outbox, OutboxEntry, OutboxMessage } from "../ports/outbox.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";
import { columns, optional, storable } from "./context.ts";
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
    return rows.map(({ pos, topic, id, type, key, body, attempts }) => ({
      position: BigInt(pos),
      attempts,
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

  async function markRefused(
    position: bigint,
    failure: Failure,
    delayMs: number | undefined,
    lease: Lease,
  ): Promise<void> {
    const why = [failure.at, storable(failure.error), JSON.stringify(failure)];
    const values = [position, delayMs ?? null, ...why, lease.name, lease.owner, lease.epoch];
    const [row] = await session.query<{ held: boolean }>(markRefusedSql(schema), values);
    if (!row?.held) throw leaseLost(lease);
  }

  async function unsend(since: number): Promise<number> {
    checkRange("since", since, 0, Number.MAX_SAFE_INTEGER);
    const [row] = await session.query<{ again: string }>(unsendSql(schema), [since]);
    return Number(row?.again ?? 0);
  }

  async function oldestAgeMs(): Promise<number> {
    const [row] = await session.query<{ age: number | null }>(oldestAgeSql(schema));
    return Math.max(0, row?.age ?? 0);
  }

  return { add, pending, markSent, markRefused, oldestAgeMs, unsend };
}

/** `$1` topics, `$2` ids, `$3` types, `$4` keys, `$5` bodies. */
const addSql = (schema: string): string =>
  `insert into ${schema}.outbox (topic, id, type, key, body)
select u.topic, u.id, u.type, u.key, u.body
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[]) with ordinality u(topic, id, type, key, body, nth)
order by u.nth`;

/** `$1` limit. */
const pendingSql = (schema: string): string => `select * from ${schema}.outbox_pending($1::int)`;

/** `$1` positions, `$2` name, `$3` owner and `$4` epoch of the lease. */
const markSentSql = (schema: string): string =>
  `select ${schema}.outbox_mark_sent($1::bigint[], $2::text, $3::text, $4::int) as held`;

/**
 * `$1` position, `$2` milliseconds to wait or null, `$3` time, `$4` error and `$5` all of the failure as JSON; `$6` name,
 * `$7` owner and `$8` epoch of the lease.
 */
const markRefusedSql = (schema: string): string =>
  `select ${schema}.outbox_mark_refused(
  $1::bigint, $2::float8, $3::float8, $4::text, $5::text, $6::text, $7::text, $8::int
) as held`;

const oldestAgeSql = (schema: string): string => `select ${schema}.outbox_oldest_age() as age`;

/** `$1` milliseconds since 1970. */
const unsendSql = (schema: string): string =>
  `select ${schema}.outbox_unsend(to_timestamp($1::float8 / 1000)) as again`;

interface OutboxRow extends SqlRow {
  readonly pos: string;
  readonly attempts: number;
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
