/**
 * Migration 8: what can become of a stream.
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function streamsMigration(s: string): readonly string[] {
  return [`create index if not exists event_tags_pos on ${s}.event_tags (pos)`, CHANGE_STREAM(s)];
}

/**
 * Changes a stream whose row it locks, and returns what it is then. Nothing is changed unless `outcome` is `changed`;
 * the others are `missing`, `version` (it is not `p_expected`), `state` (only an open stream can be truncated, deleted
 * and archived) and `range` (a stream keeps its last event).
 *
 * - `p_expected`: the version it must have, or null.
 * - `p_state`: `open`, `deleted`, `archived`, or null to leave it.
 * - `p_truncate`: the lowest version to keep, or null. Events go in slices of `p_slice` versions; call again while
 *   `unfinished`.
 * - `p_note`: whether to set the metadata to `p_metadata`.
 */
const CHANGE_STREAM = (s: string): string =>
  `create or replace function ${s}.change_stream(
  p_stream text, p_expected int, p_state text, p_truncate int, p_slice int, p_note boolean, p_metadata text
) returns table (
  outcome text, at_version int, at_first int, at_state text, at_metadata text, unfinished boolean
) language plpgsql
set plan_cache_mode = force_generic_plan set enable_seqscan = off as $change$
declare
  v ${s}.streams;
  v_state text;
  v_lowest int;
begin
  select * into v from ${s}.streams t where t.stream = p_stream for update;
  v_state := coalesce(v.state, 'open');
  outcome := case
    when v.stream is null then 'missing'
    when p_expected <> v.version then 'version'
    when p_truncate is not null and v_state <> 'open' then 'state'
    when p_state <> v_state and p_state <> 'open' and v_state <> 'open' then 'state'
    when p_truncate > v.version then 'range'
    else 'changed'
  end;
  unfinished := false;
  if outcome = 'changed' then
    if p_truncate is not null then
      v.first := greatest(v.first, p_truncate);
      select min(e.version) into v_lowest from ${s}.events e where e.stream = p_stream;
      unfinished := v_lowest + p_slice < p_truncate;
      with gone as (
        delete from ${s}.events e
          where e.stream = p_stream and e.version < least(p_truncate, v_lowest + p_slice) returning e.pos, e.id
      )
      delete from ${s}.event_tags t using gone g where t.pos = g.pos;
    end if;
    if p_state = 'deleted' then
      v.first := v.version + 1;
    elsif p_state = 'open' and v_state = 'deleted' then
      select coalesce(min(e.version), v.first) into v.first from ${s}.events e where e.stream = p_stream;
    elsif p_state = 'archived' and v_state = 'open' then
      with moved as (delete from ${s}.events e where e.stream = p_stream returning e.*)
        insert into ${s}.events_archive select * from moved;
    elsif p_state = 'open' and v_state = 'archived' then
      with moved as (delete from ${s}.events_archive e where e.stream = p_stream returning e.*)
        insert into ${s}.events select * from moved;
    end if;
    if p_note then
      v.metadata := p_metadata;
    end if;
    v.state := nullif(coalesce(p_state, v_state), 'open');
    update ${s}.streams t set first = v.first, state = v.state, metadata = v.metadata where t.stream = p_stream;
  end if;
  at_version := v.version;
  at_first := v.first;
  at_state := coalesce(v.state, 'open');
  at_metadata := v.metadata;
  return next;
end
$change$`;
