/**
 * The saga store on Postgres: an instance is one row of JSON text, with what it is searched by beside it.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { ClaimedSaga, SagaFilter, SagaInstance, SagaStore } from "../ports/saga_store.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";

/** A saga store on a session. @param schema Quoted. */
export function sagas(session: SqlSession, schema: string): SagaStore {
  async function create(instance: SagaInstance): Promise<boolean> {
    checkText("saga id", instance.id);
    return (await session.query(createSql(schema), instanceValues(instance))).length > 0;
  }

  async function load(id: string): Promise<SagaInstance | undefined> {
    const [row] = await session.query<InstanceRow>(loadSql(schema), [id]);
    return row && readInstance(row);
  }

  async function claim(
    names: readonly string[],
    owner: string,
    leaseMs: number,
    limit: number,
  ): Promise<ClaimedSaga[]> {
    const values = [names, checkText("owner", owner), leaseMs, limit];
    const rows = await session.query<InstanceRow & { epoch: number }>(claimSql(schema), values);
    return rows.map((row) => ({ instance: readInstance(row), owner, epoch: row.epoch }));
  }

  async function renew({ instance, owner, epoch }: ClaimedSaga, leaseMs: number): Promise<boolean> {
    return (await session.query(renewSql(schema), [instance.id, owner, epoch, leaseMs])).length > 0;
  }

  async function save(claimed: ClaimedSaga, instance: SagaInstance, release: boolean): Promise<void> {
    const { instance: { id }, owner, epoch } = claimed;
    if (instance.id !== id) throw otherInstance(id, instance.id);
    const rows = await session.query(saveSql(schema), [...instanceValues(instance), owner, epoch, release]);
    if (rows.length > 0) return;
    throw new MillstreamError(
      "LEASE_LOST",
      `Cannot save saga ${describe(id)}: ${describe(owner)} no longer holds epoch ${epoch}`,
      { details: { id, owner, epoch } },
    );
  }

  async function list({ saga, status, limit, after }: SagaFilter): Promise<readonly SagaInstance[]> {
    const rows = await session.query<InstanceRow>(listSql(schema), [
      saga ?? null,
      status ?? null,
      after ?? null,
      limit,
    ]);
    return rows.map(readInstance);
  }

  return { create, load, claim, renew, save, list };
}

/** `$1` id, `$2` saga, `$3` status, `$4` due, `$5` instance. No row if the id exists. */
const createSql = (schema: string): string =>
  `insert into ${schema}.sagas (id, saga, status, due_at, instance)
values ($1::text, $2::text, $3::text, $4::float8, $5::text) on conflict (id) do nothing returning 1`;

/** `$1` id. */
const loadSql = (schema: string): string => `select instance from ${schema}.sagas where id = $1::text`;

/**
 * `$1` sagas, `$2` owner, `$3` milliseconds of lease, `$4` limit. Those that are due longest come first; one that
 * another worker is claiming or saving just now is left to it.
 */
const claimSql = (schema: string): string =>
  `with due as materialized (
  select id from ${schema}.sagas
  where saga = any($1::text[]) and status in ('running', 'compensating')
    and due_at <= extract(epoch from statement_timestamp()) * 1000
    and (leased_until is null or leased_until <= clock_timestamp())
  order by due_at limit $4::int for update skip locked
)
update ${schema}.sagas s
set owner = $2::text, epoch = s.epoch + 1, leased_until = clock_timestamp() + $3::float8 * interval '1 millisecond'
from due where s.id = due.id
returning s.instance, s.epoch`;

/** `$1` id, `$2` owner, `$3` epoch, `$4` milliseconds. No row if the claim was lost. */
const renewSql = (schema: string): string =>
  `update ${schema}.sagas set leased_until = clock_timestamp() + $4::float8 * interval '1 millisecond'
where id = $1::text and owner = $2::text and epoch = $3::int and leased_until > clock_timestamp() returning 1`;

/** `$1` to `$5` as in {@linkcode createSql}; `$6` owner, `$7` epoch, `$8` release. No row if the claim was lost. */
const saveSql = (schema: string): string =>
  `update ${schema}.sagas set saga = $2::text, status = $3::text, due_at = $4::float8, instance = $5::text,
  owner = case when $8::boolean then null else owner end,
  leased_until = case when $8::boolean then null else leased_until end
where id = $1::text and owner = $6::text and epoch = $7::int and leased_until > clock_timestamp() returning 1`;

/** `$1` saga or null, `$2` status or null, `$3` id or null, `$4` limit. */
const listSql = (schema: string): string =>
  `select instance from ${schema}.sagas
where ($1::text is null or saga = $1::text) and ($2::text is null or status = $2::text)
  and ($3::text is null or id > $3::text)
order by id limit $4::int`;

interface InstanceRow extends SqlRow {
  readonly instance: string;
}

function instanceValues(instance: SagaInstance): [string, string, string, number, string] {
  // JSON has no Infinity: "never due" is kept as the largest exact number.
  const dueAt = Math.min(instance.dueAt, Number.MAX_SAFE_INTEGER);
  return [instance.id, instance.saga, instance.status, dueAt, JSON.stringify({ ...instance, dueAt })];
}

function readInstance(row: InstanceRow): SagaInstance {
  return JSON.parse(row.instance) as SagaInstance;
}

function otherInstance(claimed: string, saved: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot save saga ${describe(saved)}: expected the claimed instance ${describe(claimed)}`,
  );
}
