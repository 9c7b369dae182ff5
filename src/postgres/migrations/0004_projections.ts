/**
 * Migration 4: the state of projections, events they have put aside, and snapshots.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function projectionMigration(s: string): readonly string[] {
  return [
    `create table if not exists ${s}.projections (
  name text collate "C" primary key,
  revision int not null,
  control text not null,
  changed_at timestamptz not null default clock_timestamp()
)`,

    `create table if not exists ${s}.parked_events (
  projection text collate "C" not null,
  build int not null,
  position bigint not null,
  lane int not null,
  stream text collate "C" not null,
  version int not null,
  id text collate "C" not null,
  type text collate "C" not null,
  error text not null,
  attempts int not null,
  parked_at double precision not null,
  primary key (projection, build, position)
)`,

    `create table if not exists ${s}.snapshots (
  stream text collate "C" not null,
  fold text collate "C" not null,
  version int not null,
  event_id text collate "C" not null,
  state text not null,
  saved_at timestamptz not null default clock_timestamp(),
  primary key (stream, fold)
) with (fillfactor = 80)`,
  ];
}
