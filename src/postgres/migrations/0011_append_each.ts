/**
 * Migration 11: the short way for appends of many callers.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function appendEachMigration(s: string): readonly string[] {
  return [APPEND_EACH(s)];
}

/**
 * Appends for many callers, each to one stream of its own that must have an exact version: lock, comparison and new
 * version are one statement, the events another. Who does not fit is told to look closer, by `append_many`. An id that
 * is in its stream already fails with 23505; waiting too long for a lock with 55P03, and nothing is written.
 *
 * - `p_streams`, each once and sorted, so that all who wait for each other do so in one order; `p_expected`; `p_counts`.
 * - The others as in `append_many`, whose form the result has too: outcome 0 is appended, 3 is look closer.
 */
const APPEND_EACH = (s: string): string =>
  `create or replace function ${s}.append_each(
  p_streams text[], p_expected int[], p_counts int[], p_owners int[], p_offsets int[],
  p_ids text[], p_types text[], p_keys text[], p_correlations text[], p_topics text[], p_bodies text[]
) returns bigint[] language plpgsql
set lock_timeout = '100ms' as $append$
declare
  v_appends constant int := cardinality(p_streams);
  v_start int[] := array_fill(null::int, array[v_appends]);
  v_outcome bigint[] := array_fill(3::bigint, array[v_appends]);
  v_version bigint[] := array_fill(0::bigint, array[v_appends]);
  v_pos bigint[] := array_fill(0::bigint, array[v_appends]);
  v_streams text[];
  v_versions int[];
  v_positions bigint[];
  v_next int := 1;
  v_total int := 0;
begin
  -- A row of its own has the expected version beside it, in the column that a new stream has 1 in, and 1 is 0 + 1.
  with moved as (
    insert into ${s}.streams as t (stream, version, first)
      select u.stream, u.count, u.expected + 1 from unnest(p_streams, p_counts, p_expected) u(stream, count, expected)
      on conflict (stream) do update set version = t.version + excluded.version
      where t.version = excluded.first - 1 and t.state is null
      returning t.stream, t.version
  )
  select array_agg(m.stream), array_agg(m.version) into v_streams, v_versions from moved m;
  for i in 1 .. v_appends loop
    if v_streams[v_next] = p_streams[i] then
      if v_versions[v_next] - p_counts[i] = p_expected[i] then
        v_start[i] := p_expected[i];
        v_outcome[i] := 0;
        v_version[i] := v_versions[v_next];
      else
        delete from ${s}.streams t where t.stream = p_streams[i]; -- there was none: this statement has made it
      end if;
      v_next := v_next + 1;
    end if;
  end loop;
  if p_topics is not null then
    insert into ${s}.outbox (topic, id, type, key, body)
      select u.topic, u.id, u.type, u.key, u.body
      from unnest(p_owners, p_topics, p_ids, p_types, p_keys, p_bodies) u(owner, topic, id, type, key, body)
      where u.topic is not null and v_start[u.owner] is not null;
  end if;
  with added as (
    insert into ${s}.events (pos, stream, version, id, type, key, correlation_id, body)
    select nextval('${s}.event_positions'), p_streams[u.owner], v_start[u.owner] + u.nth,
      u.id, u.type, u.key, u.correlation_id, u.body
    from unnest(p_owners, p_offsets, p_ids, p_types, p_keys, p_correlations, p_bodies)
      u(owner, nth, id, type, key, correlation_id, body)
    where v_start[u.owner] is not null
    returning pos
  )
  select array_agg(a.pos order by a.pos) into v_positions from added a;
  for i in 1 .. v_appends loop
    if v_start[i] is not null then
      v_total := v_total + p_counts[i];
      v_pos[i] := v_positions[v_total];
    end if;
  end loop;
  return v_outcome || v_version || v_pos;
end
$append$`;
