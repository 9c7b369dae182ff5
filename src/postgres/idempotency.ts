/**
 * Idempotency keys on Postgres.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { IdempotencyKeys, IdempotencyState } from "../ports/idempotency.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";

/** Idempotency keys on a session. @param schema Quoted. */
export function idempotencyKeys(session: SqlSession, schema: string): IdempotencyKeys {
  async function begin(key: string, fingerprint: string, leaseMs: number): Promise<IdempotencyState> {
    checkText("idempotency key", key, 512);
    // Two rounds at most in practice: a row that appeared after the statement began is only seen by the next one.
    for (let round = 0; round < 10; round++) {
      const [row] = await session.query<BeginRow>(beginSql(schema), [key, fingerprint, leaseMs]);
      if (row) return stateOf(row);
    }
    return { state: "running" };
  }

  async function renew(key: string, epoch: number, leaseMs: number): Promise<boolean> {
    return (await session.query(renewSql(schema), [key, epoch, leaseMs])).length > 0;
  }

  async function complete(key: string, epoch: number, result: string, ttlMs: number): Promise<void> {
    const rows = await session.query(completeSql(schema), [key, epoch, result, ttlMs]);
    if (rows.length > 0) return;
    throw new MillstreamError(
      "LEASE_LOST",
      `Cannot keep the result for idempotency key ${
        describe(key)
      }: epoch ${epoch} no longer runs the operation`,
      { details: { key, epoch } },
    );
  }

  async function abandon(key: string, epoch: number): Promise<void> {
    await session.query(abandonSql(schema), [key, epoch]);
  }

  return { begin, renew, complete, abandon };
}

/**
 * How long a claim outlives its lease, so that the same request can take it over. Then the key is free for any
 * request, like one whose result is past its time.
 */
const GRACE = "interval '1 day'";

/**
 * `$1` key, `$2` fingerprint, `$3` milliseconds of lease. Claims a key that is new or past its time, or whose runner of
 * the same request is gone; otherwise says what is there. No row if that changed meanwhile.
 */
const beginSql = (schema: string): string =>
  `with claimed as (
  insert into ${schema}.idempotency as i (key, fingerprint, epoch, leased_until, expires_at)
  select $1::text, $2::text, nextval('${schema}.idempotency_epochs'), t.lease_end, t.lease_end + ${GRACE}
  from (select clock_timestamp() + $3::float8 * interval '1 millisecond') t(lease_end)
  on conflict (key) do update set fingerprint = excluded.fingerprint, epoch = excluded.epoch,
    leased_until = excluded.leased_until, expires_at = excluded.expires_at, result = null
  where i.expires_at <= clock_timestamp()
    or i.result is null and i.fingerprint = excluded.fingerprint and i.leased_until <= clock_timestamp()
  returning i.epoch
)
select true as mine, true as matches, epoch, null as result from claimed
union all
select false, i.fingerprint = $2::text, i.epoch, i.result
from ${schema}.idempotency i
where i.key = $1::text and i.expires_at > clock_timestamp() and not exists (select from claimed)`;

/** `$1` key, `$2` epoch, `$3` milliseconds. */
const renewSql = (schema: string): string =>
  `update ${schema}.idempotency set
  leased_until = clock_timestamp() + $3::float8 * interval '1 millisecond',
  expires_at = clock_timestamp() + $3::float8 * interval '1 millisecond' + ${GRACE}
where key = $1::text and epoch = $2::bigint and result is null returning 1`;

/** `$1` key, `$2` epoch, `$3` result, `$4` milliseconds. No row if another caller took over. */
const completeSql = (schema: string): string =>
  `update ${schema}.idempotency
set result = $3::text, expires_at = clock_timestamp() + $4::float8 * interval '1 millisecond'
where key = $1::text and epoch = $2::bigint returning 1`;

/** `$1` key, `$2` epoch. The row goes: epochs come from a sequence and keep growing without it. */
const abandonSql = (schema: string): string =>
  `delete from ${schema}.idempotency where key = $1::text and epoch = $2::bigint and result is null`;

/** Forgets at most `$1` keys whose time is over. */
export const pruneIdempotencySql = (schema: string): string =>
  `with gone as (
  delete from ${schema}.idempotency where key in (
    select key from ${schema}.idempotency where expires_at < statement_timestamp() limit $1::int for update skip locked
  )
  returning 1
)
select count(*)::int as deleted from gone`;

interface BeginRow extends SqlRow {
  readonly mine: boolean;
  readonly matches: boolean;
  readonly epoch: string;
  readonly result: string | null;
}

function stateOf({ mine, matches, epoch, result }: BeginRow): IdempotencyState {
  if (mine) return { state: "started", epoch: Number(epoch) };
  if (!matches) return { state: "mismatch" };
  return result === null ? { state: "running" } : { state: "done", result };
}
