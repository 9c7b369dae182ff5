/**
 * Projections on Postgres.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { ParkedEvent, ParkedFilter, ProjectionControl, ProjectionStore } from "../ports/projections.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";

/** The projection port on a session. @param schema Quoted. */
export function projections(session: SqlSession, schema: string): ProjectionStore {
  async function load(name: string): Promise<ProjectionControl | undefined> {
    const [row] = await session.query<ControlRow>(loadSql(schema), [checkText("projection", name)]);
    return row && { ...JSON.parse(row.control) as ProjectionControl, name, revision: row.revision };
  }

  async function save(control: ProjectionControl): Promise<void> {
    const { name, revision } = control;
    const values = [checkText("projection", name), revision, JSON.stringify(control)];
    const rows = await session.query(revision === 0 ? createSql(schema) : saveSql(schema), values);
    if (rows.length === 0) throw conflict(name, revision);
  }

  async function park(event: ParkedEvent): Promise<void> {
    const { projection, build, position, lane, stream, version, id, type, error, attempts, parkedAt } = event;
    await session.query(parkSql(schema), [
      projection,
      build,
      position,
      lane,
      stream,
      version,
      id,
      type,
      plainText(error),
      attempts,
      parkedAt,
    ]);
  }

  async function parked(filter: ParkedFilter): Promise<readonly ParkedEvent[]> {
    const { projection, build, after = 0n, limit } = filter;
    const rows = await session.query<ParkedRow>(parkedSql(schema), [projection, build, after, limit]);
    return rows.map(({ parked_at, position, ...row }) => ({
      ...row,
      position: BigInt(position),
      parkedAt: parked_at,
    }));
  }

  async function countParked(projection: string, build: number): Promise<number> {
    const [row] = await session.query<{ count: number }>(countSql(schema), [projection, build]);
    return row?.count ?? 0;
  }

  async function unpark(projection: string, build: number, position: bigint): Promise<boolean> {
    return (await session.query(unparkSql(schema), [projection, build, position])).length > 0;
  }

  return { load, save, park, parked, countParked, unpark };
}

/** `$1` name. */
const loadSql = (schema: string): string =>
  `select revision, control from ${schema}.projections where name = $1::text`;

/** `$1` name, `$2` 0, `$3` control. No row if it exists. */
const createSql = (schema: string): string =>
  `insert into ${schema}.projections (name, revision, control) values ($1::text, $2::int + 1, $3::text)
on conflict (name) do nothing returning 1`;

/** `$1` name, `$2` revision, `$3` control. No row if it has another revision. */
const saveSql = (schema: string): string =>
  `update ${schema}.projections set revision = revision + 1, control = $3::text, changed_at = clock_timestamp()
where name = $1::text and revision = $2::int returning 1`;

/**
 * `$1` projection, `$2` build, `$3` position, `$4` lane, `$5` stream, `$6` version, `$7` id, `$8` type, `$9` error,
 * `$10` attempts, `$11` milliseconds since 1970.
 */
const parkSql = (schema: string): string =>
  `insert into ${schema}.parked_events as p
  (projection, build, position, lane, stream, version, id, type, error, attempts, parked_at)
values ($1::text, $2::int, $3::bigint, $4::int, $5::text, $6::int, $7::text, $8::text, $9::text, $10::int, $11::float8)
on conflict (projection, build, position) do update
set error = excluded.error, attempts = excluded.attempts, parked_at = excluded.parked_at`;

/** `$1` projection, `$2` build, `$3` after, `$4` limit. */
const parkedSql = (schema: string): string =>
  `select projection, build, position, lane, stream, version, id, type, error, attempts, parked_at
from ${schema}.parked_events where projection = $1::text and build = $2::int and position > $3::bigint
order by position limit $4::int`;

/** `$1` projection, `$2` build. */
const countSql = (schema: string): string =>
  `select count(*)::int as count from ${schema}.parked_events where projection = $1::text and build = $2::int`;

/** `$1` projection, `$2` build, `$3` position. No row if it is not there. */
const unparkSql = (schema: string): string =>
  `delete from ${schema}.parked_events
where projection = $1::text and build = $2::int and position = $3::bigint returning 1`;

interface ControlRow extends SqlRow {
  readonly revision: number;
  readonly control: string;
}

interface ParkedRow extends SqlRow, Omit<ParkedEvent, "position" | "parkedAt"> {
  readonly position: string;
  readonly parked_at: number;
  readonly [column: string]: unknown;
}

/** Postgres has no place for NUL in text. */
function plainText(text: string): string {
  return text.replaceAll("\0", "").slice(0, 2_000);
}

function conflict(name: string, revision: number): MillstreamError {
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    `Cannot save projection ${describe(name)}: it no longer has revision ${revision}`,
    { details: { name, expected: revision } },
  );
}
