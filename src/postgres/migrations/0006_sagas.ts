/**
 * Migration 6: signals for sagas, their deadlines, and an index that a save in the middle of a saga does not touch.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function sagaMigration(s: string): readonly string[] {
  return [
    `alter table ${s}.sagas
  add column if not exists signalled int not null default 0,
  add column if not exists started_at double precision not null default 0,
  add column if not exists deadline_at double precision,
  set (fillfactor = 50)`, // room for updates in place
    `drop index if exists ${s}.sagas_due`,
    `create index if not exists sagas_open on ${s}.sagas (saga, due_at)
  where status not in ('completed', 'compensated', 'compensation_failed')`,
    `create index if not exists sagas_deadline on ${s}.sagas (deadline_at)
  where deadline_at is not null and status not in ('completed', 'compensated', 'compensation_failed')`,
    `create table if not exists ${s}.saga_signals (
  saga_id text collate "C" not null,
  name text collate "C" not null,
  body text not null,
  received_at timestamptz not null default clock_timestamp(),
  primary key (saga_id, name)
)`,
  ];
}
