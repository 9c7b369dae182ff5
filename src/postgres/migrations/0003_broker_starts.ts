/**
 * Migration 3: started attempts are counted, a group can begin at a moment, and messages whose time has not come can
 * be cancelled and given another time.
 *
 * @module
 */
import { topicLock } from "./0002_broker.ts";

/** The statements, in order. @param s The quoted schema. */
export function brokerStartsMigration(s: string): readonly string[] {
  return [
    // How often a handler has begun to work on it since it was last retried or released.
    `alter table ${s}.deliveries add column if not exists started int not null default 0`,
    `drop function if exists ${s}.subscribe(text, text, boolean)`,
    SUBSCRIBE(s),
    CANCEL(s),
    RESCHEDULE(s),
  ];
}

/**
 * The id of a group; topic and group are created if they do not exist. A new group gets every message the topic still
 * holds that came in at or after `p_since`; none if that is null. The lock keeps publishers out, so that each message
 * reaches the group by exactly one of the two ways.
 *
 * `p_topic`, `p_group`, `p_since`.
 */
const SUBSCRIBE = (s: string): string =>
  `create or replace function ${s}.subscribe(p_topic text, p_group text, p_since timestamptz) returns int
language plpgsql as $subscribe$
declare
  v_topic int := ${s}.topic_id(p_topic);
  v_group int;
begin
  select g.id into v_group from ${s}.groups g where g.topic_id = v_topic and g.name = p_group;
  if found then
    return v_group;
  end if;
  perform pg_advisory_xact_lock(${topicLock(s)}, v_topic);
  insert into ${s}.groups (topic_id, name) values (v_topic, p_group)
    on conflict (topic_id, name) do nothing returning id into v_group;
  if v_group is null then
    select g.id into v_group from ${s}.groups g where g.topic_id = v_topic and g.name = p_group;
  elsif p_since is not null then
    insert into ${s}.deliveries (group_id, pos, key, waiting, ready_at)
    select v_group, m.pos, m.key, coalesce(m.visible_at > clock_timestamp(), false), coalesce(m.visible_at, clock_timestamp())
    from ${s}.messages m where m.topic_id = v_topic and m.published_at >= p_since order by m.pos;
  end if;
  return v_group;
end
$subscribe$`;

/**
 * Locks a message whose time has not come, with its deliveries, and says which it is; null if there is none. The
 * locks come before the last look at the clock: a pull that has taken it did so at a later time than its own.
 */
const LOCK_SCHEDULED = (s: string): string =>
  `select t.id into v_topic from ${s}.topics t where t.name = p_topic;
  perform pg_advisory_xact_lock_shared(${topicLock(s)}, v_topic);
  select m.pos into v_pos from ${s}.messages m
    where m.topic_id = v_topic and m.id = p_id and m.visible_at > clock_timestamp() for update;
  if not found then
    return false;
  end if;
  perform from ${s}.deliveries d join ${s}.groups g on g.id = d.group_id
    where g.topic_id = v_topic and d.pos = v_pos order by d.group_id for update of d;
  if not exists (select from ${s}.messages m where m.pos = v_pos and m.visible_at > clock_timestamp()) then
    return false;
  end if;`;

/** Forgets a message whose time has not come. False if there is none. `p_topic`, `p_id`. */
const CANCEL = (s: string): string =>
  `create or replace function ${s}.cancel_scheduled(p_topic text, p_id text) returns boolean
language plpgsql as $cancel$
declare
  v_topic int;
  v_pos bigint;
begin
  ${LOCK_SCHEDULED(s)}
  delete from ${s}.deliveries d using ${s}.groups g
    where g.topic_id = v_topic and d.group_id = g.id and d.pos = v_pos;
  delete from ${s}.messages m where m.pos = v_pos;
  return true;
end
$cancel$`;

/** Gives a message whose time has not come another one. False if there is none. `p_topic`, `p_id`, `p_delay_ms`. */
const RESCHEDULE = (s: string): string =>
  `create or replace function ${s}.reschedule(p_topic text, p_id text, p_delay_ms double precision) returns boolean
language plpgsql as $reschedule$
declare
  v_topic int;
  v_pos bigint;
  v_ready timestamptz;
begin
  ${LOCK_SCHEDULED(s)}
  v_ready := clock_timestamp() + p_delay_ms * interval '1 millisecond';
  update ${s}.messages m set visible_at = v_ready where m.pos = v_pos;
  update ${s}.deliveries d set ready_at = v_ready from ${s}.groups g
    where g.topic_id = v_topic and d.group_id = g.id and d.pos = v_pos;
  return true;
end
$reschedule$`;
