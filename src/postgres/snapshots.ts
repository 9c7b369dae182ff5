/**
 * Snapshots on Postgres.
 *
 * @module
 */
import { checkText } from "../core/names.ts";
import type { Snapshot, Snapshots } from "../ports/snapshots.ts";
import type { SqlRow, SqlSession } from "../ports/sql.ts";

/** The snapshot port on a session. @param schema Quoted. */
export function snapshots(session: SqlSession, schema: string): Snapshots {
  return {
    async load(stream, fold) {
      const [row] = await session.query<SnapshotRow>(loadSql(schema), [checkText("stream", stream), fold]);
      return row && { stream, fold, version: row.version, eventId: row.event_id, state: row.state };
    },
    async save({ stream, fold, version, eventId, state }: Snapshot) {
      const values = [checkText("stream", stream), checkText("fold", fold), version, eventId, state];
      await session.query(saveSql(schema), values);
    },
  };
}

/** `$1` stream, `$2` fold. */
const loadSql = (schema: string): string =>
  `select version, event_id, state from ${schema}.snapshots where stream = $1::text and fold = $2::text`;

/** `$1` stream, `$2` fold, `$3` version, `$4` id of the last event, `$5` state. */
const saveSql = (schema: string): string =>
  `with old as (
  delete from ${schema}.snapshots
  where stream = $1::text and fold <> $2::text and saved_at < clock_timestamp() - interval '7 days'
)
insert into ${schema}.snapshots as s (stream, fold, version, event_id, state)
values ($1::text, $2::text, $3::int, $4::text, $5::text)
on conflict (stream, fold) do update
set version = excluded.version, event_id = excluded.event_id, state = excluded.state, saved_at = clock_timestamp()`;

interface SnapshotRow extends SqlRow {
  readonly version: number;
  readonly event_id: string;
  readonly state: string;
}
