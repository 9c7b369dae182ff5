/**
 * How far the order of all events has come, and who holds it up.
 *
 * @module
 */
import type { SqlRow, SqlSession } from "../../ports/sql.ts";

/** How far the order of all events has come. */
export interface WatermarkStatus {
  /** Everything up to here is final: reads of the whole store return it. */
  readonly position: bigint;
  /** The newest event there is. Above `position` while a transaction is open that could still come in between. */
  readonly newest: bigint;
  /** For how long the oldest event that is not final has been waiting, in milliseconds. 0 if all are. */
  readonly ageMs: number;
  /** The oldest open transaction that writes, in any database of the server, if events wait and it can be told. */
  readonly blocker?: WatermarkBlocker;
}

/** A transaction for which readers wait. */
export interface WatermarkBlocker {
  /** The backend, for `pg_terminate_backend`. Missing for a prepared transaction. */
  readonly pid?: number;
  /** The name of a prepared transaction, for `rollback prepared`. */
  readonly prepared?: string;
  readonly database: string;
  readonly user: string;
  /** What the client calls itself. */
  readonly application: string;
  /** `active`, `idle in transaction`, ... */
  readonly state: string;
  /** How long the transaction has been open, in milliseconds. */
  readonly openMs: number;
}

/** Reads the status. @param schema The quoted schema. @param position How far reads can come now. */
export async function watermarkStatus(
  session: SqlSession,
  { schema, position }: { readonly schema: string; readonly position: bigint },
): Promise<WatermarkStatus> {
  const [row] = await session.query<StatusRow>(statusSql(schema), [position]);
  const status = {
    position,
    newest: BigInt(row?.newest ?? position),
    ageMs: Math.max(0, Math.round(row?.age_ms ?? 0)),
  };
  if (!row?.database) return status;
  const { pid, prepared, database, user, application, state, open_ms } = row;
  return {
    ...status,
    blocker: {
      ...(pid === null ? {} : { pid }),
      ...(prepared === null ? {} : { prepared }),
      database,
      user: user ?? "",
      application: application ?? "",
      state: state ?? "",
      openMs: Math.max(0, Math.round(open_ms ?? 0)),
    },
  };
}

interface StatusRow extends SqlRow {
  readonly newest: string;
  readonly age_ms: number | null;
  readonly pid: number | null;
  readonly prepared: string | null;
  readonly database: string | null;
  readonly user: string | null;
  readonly application: string | null;
  readonly state: string | null;
  readonly open_ms: number | null;
}

/**
 * `$1` how far reads can come. Only transactions with an xid hold up readers: those that write. Who may not see other
 * users' sessions (without `pg_read_all_stats`) is not told about them.
 */
const statusSql = (schema: string): string =>
  `with ahead as materialized (
  select e.recorded_at from ${schema}.events e where e.pos > $1::bigint order by e.pos limit 1
), writers as (
  select a.pid, null::text as prepared, a.datname::text as database, a.usename::text as user,
    a.application_name as application, a.state, a.xact_start as opened, a.backend_xid as xid
  from pg_stat_activity a where a.backend_xid is not null and a.pid <> pg_backend_pid()
  union all
  select null, p.gid, p.database::text, p.owner::text, '', 'prepared', p.prepared, p.transaction
  from pg_prepared_xacts p
)
select (select coalesce(max(e.pos), 0) from ${schema}.events e) as newest,
  (extract(epoch from clock_timestamp() - (select recorded_at from ahead)) * 1000)::float8 as age_ms,
  w.pid, w.prepared, w.database, w.user, w.application, w.state,
  (extract(epoch from clock_timestamp() - w.opened) * 1000)::float8 as open_ms
from (select 1) one left join lateral (
  select * from writers where exists (select from ahead) order by age(xid) desc limit 1
) w on true`;
