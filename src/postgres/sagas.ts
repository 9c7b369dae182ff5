/**
 * The saga store on Postgres: an instance is one row of JSON text, with what it is searched by beside it.
 *
 * Everything that many instances do is one statement over arrays. A save that keeps its claim changes no indexed column,
 * so that Postgres updates the row in place (HOT).
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type {
  ClaimedSaga,
  SagaFilter,
  SagaHolder,
  SagaInstance,
  SagaSave,
  SagaSignals,
  SagaStore,
} from "../ports/saga_store.ts";
import type { SqlRow, SqlSession, SqlValue } from "../ports/sql.ts";
import { columns } from "./context.ts";

/** A saga store on a session. @param schema Quoted. */
export function sagas(session: SqlSession, schema: string): SagaStore {
  async function create(instances: readonly SagaInstance[], holder?: SagaHolder): Promise<boolean[]> {
    for (const { id } of instances) checkText("saga id", id);
    const values = columns(
      instances.map(bounded),
      ({ id }) => id,
      ({ saga }) => saga,
      ({ status }) => status,
      ({ dueAt }) => dueAt,
      (instance) => JSON.stringify(instance),
      ({ startedAt }) => startedAt,
      ({ deadlineAt }) => deadlineAt,
    );
    const lease = [holder ? checkText("owner", holder.owner) : null, holder?.leaseMs ?? null];
    const rows = await session.query<IdRow>(createSql(schema), [...values, ...lease]);
    const created = new Set(rows.map(({ id }) => id));
    return instances.map(({ id }) => created.delete(id)); // of two with one id the first is created
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
    const rows = await session.query<ClaimedRow>(claimSql(schema), values);
    return rows.map((row) => readClaim(row, owner));
  }

  async function take(id: string, owner: string, leaseMs: number): Promise<ClaimedSaga | undefined> {
    const values = [id, checkText("owner", owner), leaseMs];
    const [row] = await session.query<ClaimedRow>(takeSql(schema), values);
    return row && readClaim(row, owner);
  }

  async function renew(claims: readonly ClaimedSaga[], leaseMs: number): Promise<boolean[]> {
    const rows = await session.query<IdRow>(renewSql(schema), [...claimColumns(claims), leaseMs]);
    return answers(claims, rows);
  }

  async function save(saves: readonly SagaSave[]): Promise<boolean[]> {
    for (const { claimed, instance } of saves) {
      if (instance.id !== claimed.instance.id) throw otherInstance(claimed.instance.id, instance.id);
    }
    const claims = saves.map(({ claimed }) => claimed);
    const values = columns(
      saves.map((one) => ({ ...one, instance: bounded(one.instance) })),
      ({ instance }) => instance.status,
      ({ instance }) => instance.dueAt,
      ({ instance }) => JSON.stringify(instance),
      ({ release }) => release ? 1 : 0,
      ({ seen }) => seen,
    );
    return answers(claims, await session.query<IdRow>(saveSql(schema), [...claimColumns(claims), ...values]));
  }

  async function signal(id: string, name: string, text: string): Promise<void> {
    const values = [checkText("saga id", id), checkText("signal name", name), text];
    await session.query(signalSql(schema), values);
  }

  async function signals(id: string): Promise<SagaSignals> {
    const rows = await session.query<SignalRow>(signalsSql(schema), [id]);
    const byName = new Map<string, string>();
    for (const { name, body } of rows) if (name !== null) byName.set(name, body ?? "");
    return { seen: rows[0]?.signalled ?? 0, byName };
  }

  async function list(filter: SagaFilter): Promise<readonly SagaInstance[]> {
    const { text, values } = listSql(schema, filter);
    return (await session.query<InstanceRow>(text, values)).map(readInstance);
  }

  return { create, load, claim, take, renew, save, signal, signals, list };
}

/**
 * One element per instance: `$1` ids, `$2` sagas, `$3` statuses, `$4` due, `$5` instances, `$6` started, `$7` deadlines.
 * `$8` owner or null, `$9` milliseconds of lease. The ids that did not exist. In order of id, so that two who create
 * the same ones do not block each other.
 */
const createSql = (schema: string): string =>
  `insert into ${schema}.sagas
  (id, saga, status, due_at, instance, started_at, deadline_at, owner, epoch, leased_until)
select id, saga, status, due_at, instance, started_at, deadline_at, $8::text,
  case when $8::text is null then 0 else 1 end, clock_timestamp() + $9::float8 * interval '1 millisecond'
from unnest($1::text[], $2::text[], $3::text[], $4::float8[], $5::text[], $6::float8[], $7::float8[])
  with ordinality u(id, saga, status, due_at, instance, started_at, deadline_at, nth)
order by id collate "C", nth
on conflict (id) do nothing returning id`;

/** `$1` id. */
const loadSql = (schema: string): string => `select instance from ${schema}.sagas where id = $1::text`;

/**
 * `$1` sagas, `$2` owner, `$3` milliseconds of lease, `$4` limit. Those that are due longest come first, found in the
 * index of each saga; one that another worker is claiming or saving just now is left to it.
 */
const claimSql = (schema: string): string =>
  `with due as materialized (
  select d.id from unnest($1::text[]) n(saga), lateral (
    select id, due_at from ${schema}.sagas
    where saga = n.saga and status not in ('completed', 'compensated', 'compensation_failed')
      and due_at <= extract(epoch from statement_timestamp()) * 1000
      and (leased_until is null or leased_until <= clock_timestamp())
    order by due_at limit $4::int for update skip locked
  ) d
  order by d.due_at limit $4::int
)
update ${schema}.sagas s
set owner = $2::text, epoch = s.epoch + 1, leased_until = clock_timestamp() + $3::float8 * interval '1 millisecond'
from due where s.id = due.id
returning s.instance, s.epoch`;

/** `$1` id, `$2` owner, `$3` milliseconds of lease. No row if there is none or somebody holds it. */
const takeSql = (schema: string): string =>
  `update ${schema}.sagas
set owner = $2::text, epoch = epoch + 1, leased_until = clock_timestamp() + $3::float8 * interval '1 millisecond'
where id = $1::text and (leased_until is null or leased_until <= clock_timestamp())
returning instance, epoch`;

/** One element per claim: `$1` ids, `$2` owners, `$3` epochs. `$4` milliseconds. The ids whose claim still holds. */
const renewSql = (schema: string): string =>
  `update ${schema}.sagas s set leased_until = clock_timestamp() + $4::float8 * interval '1 millisecond'
from unnest($1::text[], $2::text[], $3::int[]) u(id, owner, epoch)
where s.id = u.id and s.owner = u.owner and s.epoch = u.epoch and s.leased_until > clock_timestamp()
returning s.id`;

/**
 * One element per save: `$1` to `$3` as in {@linkcode renewSql}, `$4` statuses, `$5` due, `$6` instances, `$7` 1 to
 * release, `$8` signals seen. The ids that were saved. A signal that comes at the same time has the row locked, or
 * finds it changed: either this statement sees its count, or it sees the new due time and lowers it.
 */
const saveSql = (schema: string): string =>
  `update ${schema}.sagas s set status = u.status, instance = u.instance,
  due_at = case
    when u.release = 0 then s.due_at
    when s.signalled > u.seen then 0
    else u.due_at end,
  owner = case when u.release = 1 then null else s.owner end,
  leased_until = case when u.release = 1 then null else s.leased_until end
from unnest($1::text[], $2::text[], $3::int[], $4::text[], $5::float8[], $6::text[], $7::int[], $8::int[])
  u(id, owner, epoch, status, due_at, instance, release, seen)
where s.id = u.id and s.owner = u.owner and s.epoch = u.epoch and s.leased_until > clock_timestamp()
returning s.id`;

/** `$1` id, `$2` name, `$3` text. The row is changed in any case, so that whoever saves it at the same time notices. */
const signalSql = (schema: string): string =>
  `with added as (
  insert into ${schema}.saga_signals (saga_id, name, body) values ($1::text, $2::text, $3::text)
  on conflict (saga_id, name) do nothing returning 1
)
update ${schema}.sagas set signalled = signalled + 1,
  due_at = least(due_at, extract(epoch from clock_timestamp()) * 1000)
where id = $1::text and exists (select from added)`;

/** `$1` id. The instance's count and its signals, as of one moment. */
const signalsSql = (schema: string): string =>
  `select s.signalled, g.name, g.body
from ${schema}.sagas s left join ${schema}.saga_signals g on g.saga_id = s.id where s.id = $1::text`;

/**
 * Only the conditions that are asked for, so that each finds its index: few instances are open past their deadline, but
 * there may be millions that have ended.
 */
function listSql(
  schema: string,
  { saga, status, after, startedBefore, overdueAt, limit }: SagaFilter,
): { text: string; values: SqlValue[] } {
  const values: SqlValue[] = [];
  const conditions: string[] = [];
  const add = (value: SqlValue, condition: (placeholder: string) => string): void => {
    if (value === undefined) return;
    values.push(value);
    conditions.push(condition(`$${values.length}`));
  };
  add(saga, (value) => `saga = ${value}::text`);
  add(status, (value) => `status = ${value}::text`);
  add(after, (value) => `id > ${value}::text`);
  add(startedBefore, (value) => `started_at < ${value}::float8`);
  add(overdueAt, (value) =>
    `deadline_at < ${value}::float8 and deadline_at is not null
    and status not in ('completed', 'compensated', 'compensation_failed')`);
  values.push(limit);
  const where = conditions.length > 0 ? `where ${conditions.join(" and ")}` : "";
  // Materialized: the order by id must not tempt the planner to walk all instances in that order.
  const found = overdueAt === undefined
    ? `select id, instance from ${schema}.sagas ${where}`
    : `with late as materialized (select id, instance from ${schema}.sagas ${where}) select id, instance from late`;
  return { text: `${found} order by id limit $${values.length}::int`, values };
}

interface IdRow extends SqlRow {
  readonly id: string;
}

interface InstanceRow extends SqlRow {
  readonly instance: string;
}

interface SignalRow extends SqlRow {
  readonly signalled: number;
  readonly name: string | null;
  readonly body: string | null;
}

interface ClaimedRow extends InstanceRow {
  readonly epoch: number;
}

/** JSON has no Infinity: "never due" is kept as the largest exact number. */
function bounded(instance: SagaInstance): SagaInstance {
  const dueAt = Math.min(instance.dueAt, Number.MAX_SAFE_INTEGER);
  return dueAt === instance.dueAt ? instance : { ...instance, dueAt };
}

function claimColumns(claims: readonly ClaimedSaga[]): ReturnType<typeof columns> {
  return columns(claims, ({ instance }) => instance.id, ({ owner }) => owner, ({ epoch }) => epoch);
}

function answers(claims: readonly ClaimedSaga[], rows: readonly IdRow[]): boolean[] {
  const ids = new Set(rows.map(({ id }) => id));
  return claims.map(({ instance }) => ids.has(instance.id));
}

function readClaim(row: ClaimedRow, owner: string): ClaimedSaga {
  return { instance: readInstance(row), owner, epoch: row.epoch };
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
