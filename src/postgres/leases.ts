/**
 * Leases on Postgres, by the database's clock.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { Lease, Leases } from "../ports/leases.ts";
import type { SqlSession } from "../ports/sql.ts";

/** Leases on a session. @param schema Quoted. */
export function leases(session: SqlSession, schema: string): Leases {
  async function acquire(name: string, owner: string, ttlMs: number): Promise<Lease | undefined> {
    checkText("lease name", name);
    checkText("lease owner", owner);
    const [row] = await session.query<{ epoch: number }>(acquireSql(schema), [name, owner, ttlMs]);
    return row && { name, owner, epoch: row.epoch };
  }

  async function renew({ name, owner, epoch }: Lease, ttlMs: number): Promise<boolean> {
    return (await session.query(renewSql(schema), [name, owner, epoch, ttlMs])).length > 0;
  }

  async function release({ name, owner, epoch }: Lease): Promise<void> {
    await session.query(releaseSql(schema), [name, owner, epoch]);
  }

  async function revoke(name: string): Promise<void> {
    await session.query(revokeSql(schema), [checkText("lease name", name)]);
  }

  async function assert(lease: Lease): Promise<void> {
    const rows = await session.query(assertSql(schema), [lease.name, lease.owner, lease.epoch]);
    if (rows.length === 0) throw leaseLost(lease);
  }

  return { acquire, renew, release, revoke, assert };
}

/** The error for a write that only the holder of a lease may make. */
export function leaseLost({ name, owner, epoch }: Lease): MillstreamError {
  return new MillstreamError(
    "LEASE_LOST",
    `Cannot write under lease ${describe(name)}: ${describe(owner)} no longer holds epoch ${epoch}`,
    { details: { name, owner, epoch } },
  );
}

/** `$1` name, `$2` owner, `$3` milliseconds. No row if somebody else holds it. */
const acquireSql = (schema: string): string =>
  `insert into ${schema}.leases as l (name, owner, epoch, expires_at)
values ($1::text, $2::text, 1, clock_timestamp() + $3::float8 * interval '1 millisecond')
on conflict (name) do update set
  owner = excluded.owner,
  epoch = l.epoch + case when l.owner = excluded.owner then 0 else 1 end,
  expires_at = clock_timestamp() + $3::float8 * interval '1 millisecond'
where l.owner is null or l.owner = excluded.owner or l.expires_at <= clock_timestamp()
returning epoch`;

/** `$1` name, `$2` owner, `$3` epoch, `$4` milliseconds. No row if it was lost. */
const renewSql = (schema: string): string =>
  `update ${schema}.leases set expires_at = clock_timestamp() + $4::float8 * interval '1 millisecond'
where name = $1::text and owner = $2::text and epoch = $3::int and expires_at > clock_timestamp()
returning 1`;

/** `$1` name, `$2` owner, `$3` epoch. */
const releaseSql = (schema: string): string =>
  `update ${schema}.leases set owner = null, expires_at = clock_timestamp()
where name = $1::text and owner = $2::text and epoch = $3::int`;

/** `$1` name. Waits for those who hold it in place. */
const revokeSql = (schema: string): string =>
  `update ${schema}.leases set owner = null, expires_at = clock_timestamp() where name = $1::text`;

/**
 * `$1` name, `$2` owner, `$3` epoch. Nobody can take the lease until the transaction ends, which must not be for ever: a
 * process that is frozen in the middle of it would keep all others from taking over.
 */
const assertSql = (schema: string): string =>
  `select set_config('idle_in_transaction_session_timeout', '${MAX_IDLE_MS}', true) from ${schema}.leases
where name = $1::text and owner = $2::text and epoch = $3::int and expires_at > clock_timestamp()
for share`;

/** How long a transaction may do nothing that holds a lease in place. Then the server ends its session. */
const MAX_IDLE_MS = 5_000;
