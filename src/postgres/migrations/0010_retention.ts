/**
 * Migration 10: inbox and finished sagas are forgotten after a time.
 *
 * Both functions walk their table by its primary key, a bounded number of rows each time, and say where to go on. They
 * need no index on time, which every handled message would have to pay for.
 *
 * @module
 */
import { BY_INDEX } from "./by_index.ts";

/** The statements, in order. @param s The quoted schema. */
export function retentionMigration(s: string): readonly string[] {
  return [PRUNE_INBOX(s), PRUNE_SAGAS(s)];
}

/**
 * Forgets messages that were handled more than `p_retention_ms` ago: looks at `p_limit` of them after group `p_group`
 * and message `p_message`. Returns how many went and where to look next (empty: from the beginning).
 */
const PRUNE_INBOX = (s: string): string =>
  `create or replace function ${s}.prune_inbox(p_group text, p_message text, p_limit int, p_retention_ms double precision)
returns table (deleted int, next_group text, next_message text)
language plpgsql ${BY_INDEX} as $prune$
declare
  v_before constant timestamptz := clock_timestamp() - p_retention_ms * interval '1 millisecond';
  v_groups text[];
  v_messages text[];
  v_looked int;
begin
  select array_agg(l.grp) filter (where l.handled_at < v_before), array_agg(l.message_id) filter (where l.handled_at < v_before),
      (array_agg(l.grp order by l.grp desc, l.message_id desc))[1],
      (array_agg(l.message_id order by l.grp desc, l.message_id desc))[1], count(*)
    into v_groups, v_messages, next_group, next_message, v_looked
    from (
      select i.grp, i.message_id, i.handled_at from ${s}.inbox i where (i.grp, i.message_id) > (p_group, p_message)
      order by i.grp, i.message_id limit p_limit
    ) l;
  deleted := 0;
  for v_nth in 1 .. coalesce(cardinality(v_groups), 0) loop
    delete from ${s}.inbox i where i.grp = v_groups[v_nth] and i.message_id = v_messages[v_nth];
    deleted := deleted + 1;
  end loop;
  if v_looked < p_limit then
    next_group := '';
    next_message := '';
  end if;
  return next;
end
$prune$`;

/**
 * Forgets sagas that began more than `p_retention_ms` ago and have ended well: looks at `p_limit` of them after
 * `p_after`. Returns how many went and where to look next (empty: from the beginning).
 */
const PRUNE_SAGAS = (s: string): string =>
  `create or replace function ${s}.prune_sagas(p_after text, p_limit int, p_retention_ms double precision)
returns table (deleted int, next_after text)
language plpgsql ${BY_INDEX} as $prune$
declare
  v_before constant double precision := extract(epoch from clock_timestamp()) * 1000 - p_retention_ms;
  v_old text[];
  v_last text;
  v_looked int;
begin
  select array_agg(l.id) filter (where l.started_at < v_before and l.status in ('completed', 'compensated')),
      max(l.id), count(*)
    into v_old, v_last, v_looked
    from (select i.id, i.started_at, i.status from ${s}.sagas i where i.id > p_after order by i.id limit p_limit) l;
  delete from ${s}.saga_signals g where g.saga_id = any(v_old);
  delete from ${s}.sagas i where i.id = any(v_old) and i.status in ('completed', 'compensated');
  get diagnostics deleted = row_count;
  next_after := case when v_looked < p_limit then '' else v_last end;
  return next;
end
$prune$`;
