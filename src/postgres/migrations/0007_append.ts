/**
 * Migration 7: appends of many callers in one statement, tags, and what can become of a stream.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function appendMigration(s: string): readonly string[] {
  return [
    ...TABLES(s),
    APPEND_ONE(s),
    APPEND_MANY(s),
    LOCK_TAGS(s),
    EVENTS_MATCHING(s),
    APPEND_IF(s),
    READ_MATCHING(s),
  ];
}

const TABLES = (s: string): readonly string[] => [
  // `first`: lower versions are hidden or gone. `state`: null, 'deleted' or 'archived'.
  `alter table ${s}.streams
  add column if not exists first int not null default 1,
  add column if not exists state text collate "C",
  add column if not exists metadata text`,

  `create table if not exists ${s}.events_archive (like ${s}.events including defaults)`,
  `create unique index if not exists events_archive_pos on ${s}.events_archive (pos)`,
  `create unique index if not exists events_archive_version on ${s}.events_archive (stream, version)`,

  `create table if not exists ${s}.event_tags (
  tag text collate "C" not null,
  pos bigint not null,
  primary key (tag, pos)
)`,

  `drop function if exists ${s}.append`,
];

/**
 * Appends to one stream that must have an exact version: the shortest way, two statements. Anything out of the ordinary
 * is left to `append_many`. An id that is in the stream already fails with 23505.
 *
 * Returns what `append_many` returns for a single stream.
 */
const APPEND_ONE = (s: string): string =>
  `create or replace function ${s}.append_one(
  p_stream text, p_expected int,
  p_ids text[], p_types text[], p_keys text[], p_correlations text[], p_topics text[], p_bodies text[]
) returns bigint[] language plpgsql as $append$
declare
  v_count constant int := cardinality(p_ids);
  v_version int;
begin
  -- ON CONFLICT goes by the index whatever the statistics say, and takes the lock that orders appends to one stream.
  insert into ${s}.streams as t (stream, version) values (p_stream, v_count)
    on conflict (stream) do update set version = t.version + v_count
    where t.version = p_expected and t.state is null
    returning t.version into v_version;
  if v_version - v_count is distinct from p_expected then
    if v_version is not null then
      delete from ${s}.streams t where t.stream = p_stream; -- there was none: this statement has made it
    end if;
    return ${s}.append_many(
      true, true, false, array[p_stream], array[1], array[1], array[p_expected], array[v_count],
      array_fill(1, array[v_count]), array(select generate_series(1, v_count)),
      p_ids, p_types, p_keys, p_correlations, p_topics, p_bodies, null
    );
  end if;
  if p_topics is not null then
    insert into ${s}.outbox (topic, id, type, key, body)
      select u.topic, u.id, u.type, u.key, u.body
      from unnest(p_topics, p_ids, p_types, p_keys, p_bodies) u(topic, id, type, key, body) where u.topic is not null;
  end if;
  insert into ${s}.events (pos, stream, version, id, type, key, correlation_id, body)
    select nextval('${s}.event_positions'), p_stream, p_expected + u.nth, u.id, u.type, u.key, u.correlation_id, u.body
    from unnest(p_ids, p_types, p_keys, p_correlations, p_bodies) with ordinality
      u(id, type, key, correlation_id, body, nth);
  return array[0, v_version, currval('${s}.event_positions')];
end
$append$`;

/**
 * Appends for many callers. What one caller appends is a unit: all of it or nothing, whatever becomes of the others.
 * Units take effect in the order given, each seeing those before it.
 *
 * 1. Lock the stream rows, in order of name if it waits (no deadlocks). This also gives the transaction its xid.
 * 2. Look for ids that are in their streams already, where an append may be a repetition.
 * 3. Decide unit by unit, in memory.
 * 4. Only now draw positions. Position order is therefore version order in each stream, and every position belongs to
 *    a transaction that had its xid before: the two facts that `watermark.ts` builds on.
 *
 * - `p_wait`: wait for locks; if not, streams that others have locked are busy.
 * - `p_careful`: look for ids of all units. If not, one that fits its version exactly and has an id that is there
 *   already fails with 23505.
 * - `p_refuse`: append nothing; only say what is there already.
 * - `p_streams`: the streams, each once.
 * - `p_units` (ascending), `p_slots` (place in `p_streams`), `p_expected` (-1 any, -2 exists, else the version; 0 is
 *   also none), `p_counts`: one element per stream and unit.
 * - `p_owners` (place in `p_units`), `p_offsets` (number of the event in its append, from 1), `p_ids`, `p_types`,
 *   `p_keys`, `p_correlations`, `p_topics`, `p_bodies`, `p_tags` (text of an array): one element per event. Null instead of
 *   an array of nulls.
 *
 * Returns three numbers for each element of `p_units`, first all outcomes, then all versions, then all positions.
 * Outcomes: 0 appended, 1 there already, 2 another version (the current one is given), 3 busy, 4 archived, 5 refused,
 * 6 not appended because of another stream of its unit.
 */
const APPEND_MANY = (s: string): string =>
  `create or replace function ${s}.append_many(
  p_wait boolean, p_careful boolean, p_refuse boolean, p_streams text[],
  p_units int[], p_slots int[], p_expected int[], p_counts int[], p_owners int[], p_offsets int[],
  p_ids text[], p_types text[], p_keys text[], p_correlations text[], p_topics text[], p_bodies text[], p_tags text[]
) returns bigint[] language plpgsql
-- One plan for all calls, by index: the tables may be a thousand times larger tomorrow.
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $append$
declare
  v_streams constant int := cardinality(p_streams);
  v_appends constant int := cardinality(p_units);
  v_version int[] := array_fill(null::int, array[v_streams]); -- null: not locked
  v_state text[] := array_fill(null::text, array[v_streams]);
  v_changed boolean[] := array_fill(false, array[v_streams]);
  v_created int[] := '{}';
  v_check boolean[] := array_fill(false, array[v_appends]);
  v_found int[] := array_fill(0, array[v_appends]); -- 1 all of its events, 2 some of them or otherwise
  v_accepted boolean[] := array_fill(false, array[v_appends]);
  v_start int[] := array_fill(0, array[v_appends]);
  v_last int[] := array_fill(0, array[v_appends]);
  v_outcome bigint[] := array_fill(6::bigint, array[v_appends]);
  v_at_version bigint[] := array_fill(0::bigint, array[v_appends]);
  v_at_pos bigint[] := array_fill(0::bigint, array[v_appends]);
  v_slots int[];
  v_versions int[];
  v_states text[];
  v_owners int[];
  v_all boolean[];
  v_positions bigint[];
  v_total int := 0;
  v_any boolean := false;
  v_from int := 1;
  v_to int;
  v_known int;
  v_known_at int;
  v_busy_at int;
  v_bad_at int;
  v_slot int;
  v_current int;
  i int;
begin
  if not p_wait then
    perform set_config('lock_timeout', '250ms', true); -- for streams that somebody else is just creating
  end if;
  loop
    if p_wait then
      select array_agg(k.slot), array_agg(k.version), array_agg(k.state) into v_slots, v_versions, v_states from (
        select u.slot, l.version, l.state from (
          select x.slot, x.stream from unnest(p_streams, v_version) with ordinality x(stream, version, slot)
          where x.version is null order by x.stream collate "C"
        ) u cross join lateral (
          select t.version, t.state from ${s}.streams t where t.stream = u.stream for update
        ) l
      ) k;
    else
      select array_agg(k.slot), array_agg(k.version), array_agg(k.state) into v_slots, v_versions, v_states from (
        select u.slot, l.version, l.state from unnest(p_streams) with ordinality u(stream, slot) cross join lateral (
          select t.version, t.state from ${s}.streams t where t.stream = u.stream for update skip locked
        ) l
      ) k;
    end if;
    for i in 1 .. coalesce(cardinality(v_slots), 0) loop
      v_version[v_slots[i]] := v_versions[i];
      v_state[v_slots[i]] := v_states[i];
    end loop;
    exit when array_position(v_version, null) is null;
    with added as (
      insert into ${s}.streams (stream, version)
        select u.stream, 0 from unnest(p_streams, v_version) u(stream, version)
        where u.version is null order by u.stream collate "C"
        on conflict (stream) do nothing returning stream
    )
    select array_agg(u.slot) into v_slots
      from added a join unnest(p_streams) with ordinality u(stream, slot) on u.stream = a.stream;
    for i in 1 .. coalesce(cardinality(v_slots), 0) loop
      v_version[v_slots[i]] := 0;
      v_created := v_created || v_slots[i];
    end loop;
    exit when not p_wait or array_position(v_version, null) is null;
  end loop;

  for i in 1 .. v_appends loop
    v_current := v_version[p_slots[i]];
    if v_current > 0 and (p_careful or p_refuse or p_expected[i] <> v_current) then
      v_check[i] := true;
      v_any := true;
    end if;
  end loop;
  if v_any then
    select array_agg(f.owner), array_agg(f.is_all), array_agg(f.version), array_agg(f.pos)
      into v_owners, v_all, v_versions, v_positions
      from (
        select u.owner, max(e.version) as version, max(e.pos) as pos,
          count(*) = p_counts[u.owner] and min(e.version - u.nth) = max(e.version - u.nth) as is_all
        from unnest(p_owners, p_offsets, p_ids) u(owner, nth, id) cross join lateral (
          select x.version, x.pos from ${s}.events x
          where x.stream = p_streams[p_slots[u.owner]] and x.id = u.id offset 0
        ) e
        where v_check[u.owner] group by u.owner
      ) f;
    for i in 1 .. coalesce(cardinality(v_owners), 0) loop
      v_found[v_owners[i]] := case when v_all[i] then 1 else 2 end;
      v_at_version[v_owners[i]] := v_versions[i];
      v_at_pos[v_owners[i]] := v_positions[i];
    end loop;
  end if;

  while v_from <= v_appends loop
    v_to := v_from;
    v_known := 0;
    v_known_at := 0;
    v_busy_at := 0;
    v_bad_at := 0;
    while v_to <= v_appends and p_units[v_to] = p_units[v_from] loop
      v_slot := p_slots[v_to];
      v_current := v_version[v_slot];
      if v_current is null then
        v_busy_at := v_to;
      elsif v_found[v_to] > 0 then
        v_known_at := case when v_known_at = 0 then v_to else v_known_at end;
        v_known := v_known + case when v_found[v_to] = 1 then 1 else 0 end;
      elsif v_bad_at = 0 then
        if v_state[v_slot] = 'deleted' then
          v_current := 0;
        end if;
        if v_state[v_slot] = 'archived' or not (
          p_expected[v_to] = v_current or p_expected[v_to] = -1 or (p_expected[v_to] = -2 and v_current > 0)
        ) then
          v_bad_at := v_to;
        end if;
      end if;
      v_to := v_to + 1;
    end loop;

    if v_busy_at > 0 then
      v_outcome[v_busy_at] := 3;
    elsif v_known = v_to - v_from then
      for i in v_from .. v_to - 1 loop
        v_outcome[i] := 1;
      end loop;
    elsif p_refuse then
      v_outcome[v_from] := 5;
    elsif v_known_at > 0 or v_bad_at > 0 then
      i := case when v_known_at > 0 then v_known_at else v_bad_at end;
      v_slot := p_slots[i];
      v_outcome[i] := case when v_state[v_slot] = 'archived' then 4 else 2 end;
      v_at_version[i] := case when v_state[v_slot] = 'deleted' then 0 else v_version[v_slot] end;
    else
      for i in v_from .. v_to - 1 loop
        v_slot := p_slots[i];
        v_start[i] := v_version[v_slot];
        v_version[v_slot] := v_version[v_slot] + p_counts[i];
        v_state[v_slot] := null;
        v_changed[v_slot] := true;
        v_accepted[i] := true;
        v_outcome[i] := 0;
        v_at_version[i] := v_version[v_slot];
        v_total := v_total + p_counts[i];
        v_last[i] := v_total;
      end loop;
    end if;
    v_from := v_to;
  end loop;

  foreach i in array v_created loop
    if v_version[i] = 0 then
      delete from ${s}.streams t where t.stream = p_streams[i];
    end if;
  end loop;
  if v_total = 0 then
    return v_outcome || v_at_version || v_at_pos;
  end if;

  update ${s}.streams t set version = u.version, state = null
    from unnest(p_streams, v_version, v_changed) u(stream, version, changed)
    where u.changed and t.stream = u.stream;
  if p_topics is not null then
    insert into ${s}.outbox (topic, id, type, key, body)
      select u.topic, u.id, u.type, u.key, u.body
      from unnest(p_owners, p_topics, p_ids, p_types, p_keys, p_bodies) u(owner, topic, id, type, key, body)
      where u.topic is not null and v_accepted[u.owner];
  end if;
  with added as (
    insert into ${s}.events (pos, stream, version, id, type, key, correlation_id, body)
    select nextval('${s}.event_positions'), p_streams[p_slots[u.owner]], v_start[u.owner] + u.nth,
      u.id, u.type, u.key, u.correlation_id, u.body
    from unnest(p_owners, p_offsets, p_ids, p_types, p_keys, p_correlations, p_bodies)
      u(owner, nth, id, type, key, correlation_id, body)
    where v_accepted[u.owner]
    returning pos
  )
  select array_agg(a.pos order by a.pos) into v_positions from added a;
  for i in 1 .. v_appends loop
    if v_accepted[i] then
      v_at_pos[i] := v_positions[v_last[i]];
    end if;
  end loop;
  if p_tags is not null then
    insert into ${s}.event_tags (tag, pos)
      select g.tag, v_positions[u.nth]
      from (
        select x.tags, row_number() over (order by x.at) as nth
        from unnest(p_owners, p_tags) with ordinality x(owner, tags, at) where v_accepted[x.owner]
      ) u cross join lateral unnest(u.tags::text[]) g(tag);
  end if;
  return v_outcome || v_at_version || v_at_pos;
end
$append$`;

/**
 * Takes the locks of tags until the end of the transaction, in an order that all share: alone to append or to decide,
 * together to read. They are advisory locks by hash, so two tags may share one; that costs time, never correctness.
 */
const LOCK_TAGS = (s: string): string =>
  `create or replace function ${s}.lock_tags(p_tags text[], p_alone boolean) returns void language plpgsql as $lock$
begin
  perform case when p_alone then pg_advisory_xact_lock(k.key) else pg_advisory_xact_lock_shared(k.key) end
    from (select distinct hashtextextended('${s}.tag ' || u.tag, 0) as key from unnest(p_tags) u(tag) order by 1) k;
end
$lock$`;

/** The events behind a position that match a condition (see `append_if`), in order of position. */
const EVENTS_MATCHING = (s: string): string =>
  `create or replace function ${s}.events_matching(p_condition jsonb, p_after bigint)
returns setof ${s}.events language plpgsql stable
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $matching$
begin
  return query select e.* from ${s}.events e join (
    select distinct t.pos
      from jsonb_array_elements(p_condition) c(query)
      join ${s}.event_tags t on t.tag = c.query -> 'tags' ->> 0 and t.pos > p_after
      where not exists (
        select from jsonb_array_elements_text(c.query -> 'tags') g(tag)
          where not exists (select from ${s}.event_tags o where o.tag = g.tag and o.pos = t.pos)
      ) and (c.query ->> 'types' is null or exists (
        select from ${s}.events x where x.pos = t.pos and c.query -> 'types' ? x.type
      ))
  ) m on m.pos = e.pos order by e.pos;
end
$matching$`;

/**
 * Appends one unit, waiting, whose events have tags or which must not go through if certain events were appended
 * meanwhile.
 *
 * Everybody who appends an event with a tag, or decides on one, has the tag's lock until the end of the transaction.
 * So nobody can append what the condition looks for between the look and the commit, nor get a lower position for it.
 *
 * - `p_condition`: null or a JSON array of `{ tags, types }`; an event matches if it has all tags, and one of the types
 *   unless they are null, of one of its elements.
 * - `p_after`: only events behind this position count.
 * - The others as in `append_many`; it returns what that returns.
 */
const APPEND_IF = (s: string): string =>
  `create or replace function ${s}.append_if(
  p_condition jsonb, p_after bigint, p_streams text[],
  p_units int[], p_slots int[], p_expected int[], p_counts int[], p_owners int[], p_offsets int[],
  p_ids text[], p_types text[], p_keys text[], p_correlations text[], p_topics text[], p_bodies text[], p_tags text[]
) returns bigint[] language plpgsql as $append$
begin
  perform ${s}.lock_tags(array(
    select g.tag from unnest(p_tags) t(tags) cross join lateral unnest(t.tags::text[]) g(tag)
    union all
    select g.tag from jsonb_array_elements(p_condition) c(query)
      cross join lateral jsonb_array_elements_text(c.query -> 'tags') g(tag)
  ), true);
  return ${s}.append_many(
    true, true, exists(select from ${s}.events_matching(p_condition, p_after) m where m.id <> all(p_ids)), p_streams,
    p_units, p_slots, p_expected, p_counts, p_owners, p_offsets,
    p_ids, p_types, p_keys, p_correlations, p_topics, p_bodies, p_tags
  );
end
$append$`;

/**
 * Reads what a condition would look for, after everybody has finished who is appending such an event: whatever comes
 * later has a higher position than what this returns.
 */
const READ_MATCHING = (s: string): string =>
  `create or replace function ${s}.read_matching(p_condition jsonb, p_after bigint, p_limit int)
returns setof ${s}.events language plpgsql as $read$
begin
  perform ${s}.lock_tags(array(
    select g.tag from jsonb_array_elements(p_condition) c(query)
      cross join lateral jsonb_array_elements_text(c.query -> 'tags') g(tag)
  ), false);
  return query select * from ${s}.events_matching(p_condition, p_after) limit p_limit;
end
$read$`;
