/**
 * Migration 1: streams, events, outbox, inbox, checkpoints, leases, sagas and idempotency keys.
 *
 * Text that is compared or sorted has the "C" collation: byte order, the same on every server, and cheaper.
 * Bodies are `text`, not `jsonb`: what was written is read back byte for byte.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function storeMigration(s: string): readonly string[] {
  return [...TABLES(s), APPEND(s)];
}

const TABLES = (s: string): readonly string[] => [
  `create table if not exists ${s}.streams (
  stream text collate "C" primary key,
  version int not null
) with (fillfactor = 80)`, // room for updates in place

  // One at a time: a cached range per session would break "later lock, higher position".
  `create sequence if not exists ${s}.event_positions as bigint cache 1`,

  `create table if not exists ${s}.events (
  pos bigint primary key,
  stream text collate "C" not null,
  version int not null,
  id text collate "C" not null,
  type text collate "C" not null,
  key text collate "C",
  correlation_id text collate "C",
  body text not null,
  recorded_at timestamptz not null default clock_timestamp(),
  unique (stream, version),
  unique (stream, id)
)`,
  `create index if not exists events_correlation on ${s}.events (correlation_id, pos) where correlation_id is not null`,
  `create index if not exists events_recorded on ${s}.events using brin (recorded_at)`,

  `create table if not exists ${s}.outbox (
  pos bigint generated always as identity primary key,
  topic text collate "C" not null,
  id text collate "C" not null,
  type text collate "C" not null,
  key text collate "C",
  body text not null,
  created_at timestamptz not null default clock_timestamp(),
  sent_at timestamptz
)`,
  `create index if not exists outbox_unsent on ${s}.outbox (pos) where sent_at is null`,
  `create index if not exists outbox_created on ${s}.outbox using brin (created_at)`,

  `create table if not exists ${s}.inbox (
  grp text collate "C" not null,
  message_id text collate "C" not null,
  handled_at timestamptz not null default clock_timestamp(),
  primary key (grp, message_id)
)`,
  `create index if not exists inbox_handled on ${s}.inbox using brin (handled_at)`,

  `create table if not exists ${s}.checkpoints (
  name text collate "C" primary key,
  position bigint not null,
  moved_at timestamptz not null default clock_timestamp()
) with (fillfactor = 50)`,

  // Released: owner is null. The row stays, so that the epoch never starts again.
  `create table if not exists ${s}.leases (
  name text collate "C" primary key,
  owner text collate "C",
  epoch int not null,
  expires_at timestamptz not null
) with (fillfactor = 50)`,

  `create table if not exists ${s}.sagas (
  id text collate "C" primary key,
  saga text collate "C" not null,
  status text collate "C" not null,
  due_at double precision not null,
  instance text not null,
  owner text collate "C",
  epoch int not null default 0,
  leased_until timestamptz
)`,
  `create index if not exists sagas_due on ${s}.sagas (saga, due_at) where status in ('running', 'compensating')`,
  `create index if not exists sagas_status on ${s}.sagas (status, id)`,

  // Epochs from a sequence: they keep growing when a key was deleted after its time and comes back.
  `create sequence if not exists ${s}.idempotency_epochs as bigint cache 1`,

  // Done: result is not null.
  `create table if not exists ${s}.idempotency (
  key text collate "C" primary key,
  fingerprint text collate "C" not null,
  epoch bigint not null,
  leased_until timestamptz not null,
  result text,
  expires_at timestamptz not null
)`,
  `create index if not exists idempotency_expiry on ${s}.idempotency (expires_at)`,
];

/**
 * Appends to streams, all or nothing. One result row per stream, or a single row with `refused` for the first stream
 * that is not as expected, in which case nothing was written and the transaction is still usable.
 *
 * 1. Lock the stream rows in order of name (no deadlocks). This also gives the transaction its xid.
 * 2. All events there already, one after another: give the earlier result. Some of them: refuse.
 * 3. Compare the versions.
 * 4. Only now draw positions. Position order is therefore version order in each stream, and every position belongs to
 *    a transaction that had its xid before: the two facts that `watermark.ts` builds on.
 *
 * - `p_streams`, `p_expected` (-1 any, -2 exists, else the version), `p_counts`: one element per stream.
 * - `p_owner` (number of the stream, from 1), `p_offset` (number of the event in its stream, from 1), `p_ids`,
 *   `p_types`, `p_keys`, `p_correlations`, `p_topics`, `p_bodies`: one element per event.
 */
const APPEND = (s: string): string =>
  `create or replace function ${s}.append(
  p_streams text[], p_expected int[], p_counts int[], p_owner int[], p_offset int[],
  p_ids text[], p_types text[], p_keys text[], p_correlations text[], p_topics text[], p_bodies text[]
) returns table (stream_no int, refused boolean, at_version int, at_pos bigint)
language plpgsql as $append$
declare
  v_streams constant int := cardinality(p_streams);
  v_before int[] := array_fill(0, array[v_streams]);
  v_created text[] := '{}';
  v_at_version int[] := array_fill(0, array[v_streams]);
  v_at_pos bigint[] := array_fill(0::bigint, array[v_streams]);
  v_known int := 0;
  v_refused int := 0;
  v_ids text[];
  v_found text[];
  v_first int;
  v_last int;
  v_last_pos bigint;
  v_no int;
  v_stream text;
  v_version int;
begin
  for v_no, v_stream in
    select u.no, u.stream from unnest(p_streams) with ordinality u(stream, no) order by u.stream collate "C"
  loop
    loop
      select t.version into v_version from ${s}.streams t where t.stream = v_stream for update;
      exit when found;
      insert into ${s}.streams (stream, version) values (v_stream, 0) on conflict (stream) do nothing;
      if found then
        v_version := 0;
        v_created := v_created || v_stream;
        exit;
      end if;
    end loop;
    v_before[v_no] := v_version;
  end loop;

  for v_no in 1 .. v_streams loop
    continue when v_before[v_no] = 0;
    v_ids := array(select u.id from unnest(p_ids, p_owner) with ordinality u(id, no, nth) where u.no = v_no order by u.nth);
    select array_agg(e.id order by e.version), min(e.version), max(e.version), max(e.pos)
      into v_found, v_first, v_last, v_last_pos
      from ${s}.events e where e.stream = p_streams[v_no] and e.id = any(v_ids);
    continue when v_found is null;
    if v_found = v_ids and v_last - v_first + 1 = cardinality(v_ids) then
      v_known := v_known + 1;
      v_at_version[v_no] := v_last;
      v_at_pos[v_no] := v_last_pos;
    end if;
    v_refused := case when v_refused = 0 then v_no else v_refused end;
  end loop;
  if v_known = v_streams then
    return query select no::int, false, v_at_version[no], v_at_pos[no] from generate_series(1, v_streams) no;
    return;
  end if;

  for v_no in 1 .. v_streams loop
    exit when v_refused > 0;
    if p_expected[v_no] <> -1 and not (p_expected[v_no] = -2 and v_before[v_no] > 0)
      and p_expected[v_no] <> v_before[v_no]
    then
      v_refused := v_no;
    end if;
  end loop;
  if v_refused > 0 then
    if cardinality(v_created) > 0 then
      delete from ${s}.streams t where t.stream = any(v_created);
    end if;
    return query select v_refused, true, v_before[v_refused], null::bigint;
    return;
  end if;

  update ${s}.streams t set version = v_before[u.no] + p_counts[u.no]
    from unnest(p_streams) with ordinality u(stream, no) where t.stream = u.stream;
  insert into ${s}.outbox (topic, id, type, key, body)
    select u.topic, u.id, u.type, u.key, u.body
    from unnest(p_ids, p_types, p_keys, p_topics, p_bodies) with ordinality u(id, type, key, topic, body, nth)
    where u.topic is not null order by u.nth;
  return query
    with added as (
      insert into ${s}.events (pos, stream, version, id, type, key, correlation_id, body)
      select nextval('${s}.event_positions'), p_streams[u.no], v_before[u.no] + u.nth_of_stream,
        u.id, u.type, u.key, u.correlation_id, u.body
      from (
        select * from unnest(p_owner, p_offset, p_ids, p_types, p_keys, p_correlations, p_bodies) with ordinality
          x(no, nth_of_stream, id, type, key, correlation_id, body, nth) order by x.nth
      ) u
      returning events.stream, events.version, events.pos
    )
    select array_position(p_streams, a.stream), false, max(a.version), max(a.pos) from added a group by a.stream;
end
$append$`;
