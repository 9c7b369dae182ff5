/**
 * Migration 5: the work on deliveries always goes by index, and what a crash of the server may undo is not waited for.
 *
 * The table of deliveries is empty at one moment and full at the next, and a plan made for the one is ruinous for the
 * other: with 20,000 deliveries, pull and ack took five times as long, or ten. So the planner is left one way. The
 * primary key begins with the position, and all batches are looked up in it by array: no join, whose order or kind
 * could be wrong, and no other index that could seem as good.
 *
 * @module
 */
import { BY_INDEX } from "./by_index.ts";

/** The statements, in order. @param s The quoted schema. */
export function brokerPlansMigration(s: string): readonly string[] {
  return [
    `alter table ${s}.deliveries drop constraint if exists deliveries_pkey, add primary key (pos, group_id)`,
    PULL(s),
    UNPARK(s),
    ACK(s),
    BEGIN(s),
    RETRY(s),
    RELEASE(s),
    EXTEND(s),
  ];
}

/** One pull at a time in each group. */
const groupLock = (s: string): string => `hashtext('${s}.groups')`;

/**
 * Those deliveries of `p_pos`, which must be ascending, and `p_epochs` (one element for each) that consumer `p_owner`
 * of group `p_group` holds. `width_bucket` is a binary search.
 */
const HELD = `d.pos = any(p_pos) and d.group_id = p_group and d.owner = p_owner
      and d.epoch = p_epochs[width_bucket(d.pos, p_pos)]`;

/**
 * Hands out up to `p_max` deliveries of a group, lowest position first. Raises MS404 if the group does not exist. A row
 * of nulls says that nothing was found among the first thousands: call again to look further.
 *
 * Pulls of one group run one after another: in READ COMMITTED two concurrent ones could each take a message of the
 * same key, neither seeing what the other took (the lock comes before the statement whose snapshot must be fresh).
 *
 * 1. What is due becomes ready: delays and retries whose time has come, leases that ran out.
 * 2. Walk over the ready ones. One that has a key is taken only if nothing of that key is handed out and nothing
 *    earlier of it is unfinished; a message that was never handed out because of its publish delay holds back nobody.
 * 3. If many had to be passed over, park them, so that a key with a long backlog costs other keys nothing. The
 *    blocker is locked meanwhile (or nothing is parked): who finishes it waits for this transaction and then sees what
 *    to unpark. Invariant: behind every parked delivery stands one of its key that is not parked.
 *
 * The commit is not waited for, so that pulls do not queue for the disk one behind the other. Should the server crash
 * before it is there, these deliveries were never handed out as far as it knows, and come again.
 *
 * `p_group` (its id), `p_owner` (the consumer), `p_max`, `p_lease_ms`.
 */
const PULL = (s: string): string =>
  `create or replace function ${s}.pull(p_group int, p_owner text, p_max int, p_lease_ms double precision)
returns table (pos bigint, id text, type text, key text, body text, epoch int, attempt int, redelivered boolean)
language plpgsql ${BY_INDEX} as $pull$
#variable_conflict use_column
declare
  v_now timestamptz := clock_timestamp();
  v_last bigint := 0;
  v_look int := p_max;
  v_seen int := 0;
  v_heads bigint[];
  v_blocked bigint[];
  v_looked int;
  v_looked_to bigint;
  v_take bigint[] := '{}';
  v_park bigint[] := '{}';
  v_more boolean;
begin
  if not exists (select from ${s}.groups g where g.id = p_group) then
    raise exception 'consumer group does not exist' using errcode = 'MS404';
  end if;
  if not exists (select from ${s}.deliveries d where d.group_id = p_group and not d.waiting)
    and not exists (select from ${s}.deliveries d where d.group_id = p_group and d.waiting and d.ready_at <= v_now)
  then
    return;
  end if;
  perform pg_advisory_xact_lock(${groupLock(s)}, p_group);
  perform set_config('synchronous_commit', 'off', true);
  v_now := clock_timestamp();

  update ${s}.deliveries d
    set waiting = false, owner = null, redelivered = d.redelivered or d.owner is not null
    where d.group_id = p_group and d.pos = any(array(
      select w.pos from ${s}.deliveries w where w.group_id = p_group and w.waiting and w.ready_at <= v_now
      order by w.ready_at limit greatest(p_max, 1000) for update skip locked
    ));

  loop
    with looked as (
      select d.pos, d.key from ${s}.deliveries d
      where d.group_id = p_group and not d.waiting and d.pos > v_last order by d.pos limit v_look
    ), judged as (
      select l.pos, l.key is null or not exists (
        select from ${s}.deliveries o where o.group_id = p_group and o.key = l.key and o.owner is not null
      ) and not exists (
        select from ${s}.deliveries o where o.group_id = p_group and o.key = l.key and o.pos < l.pos
          and not (o.waiting and o.epoch = 0 and o.ready_at > v_now and o.ready_at < 'infinity')
      ) as head
      from looked l
    )
    select array_agg(j.pos order by j.pos) filter (where j.head), array_agg(j.pos) filter (where not j.head),
      count(*), max(j.pos)
      into v_heads, v_blocked, v_looked, v_looked_to from judged j;
    v_take := v_take || v_heads;
    v_park := v_park || v_blocked;
    v_last := v_looked_to;
    v_seen := v_seen + v_looked;
    v_more := v_looked = v_look and cardinality(v_take) < p_max;
    exit when not v_more or v_seen >= 4000;
    v_look := least(v_look * 4, 1000);
  end loop;

  if cardinality(v_park) >= 100 then
    update ${s}.deliveries d set waiting = true, ready_at = 'infinity'
      from (
        select p.pos from ${s}.deliveries p cross join lateral (
          select from ${s}.deliveries b
          where b.group_id = p_group and b.key = p.key and b.pos < p.pos
            and not (b.waiting and b.ready_at = 'infinity') and not (b.waiting and b.epoch = 0 and b.owner is null)
          order by b.pos limit 1 for key share skip locked
        ) blocker
        where p.group_id = p_group and p.pos = any(v_park)
      ) parked
      where d.group_id = p_group and d.pos = parked.pos;
  end if;

  if cardinality(v_take) = 0 and v_more then
    return next; -- all nulls
    return;
  end if;
  return query
    with taken as (
      update ${s}.deliveries d
        set waiting = true, ready_at = v_now + p_lease_ms * interval '1 millisecond', owner = p_owner, epoch = d.epoch + 1
        where d.group_id = p_group and d.pos = any(v_take[1:p_max])
        returning d.pos, d.epoch, d.attempt, d.redelivered
    )
    select m.pos, m.id, m.type, m.key, m.body, t.epoch, t.attempt, t.redelivered
    from taken t join ${s}.messages m on m.pos = t.pos order by m.pos;
end
$pull$`;

/**
 * Makes the first parked delivery of each key ready, if there is one. Called after a delivery of the key was finished,
 * as a statement of its own: its snapshot must include what {@linkcode PULL} parked while the finisher waited for it.
 *
 * `p_group`, `p_keys` (without nulls).
 */
const UNPARK = (s: string): string =>
  `create or replace function ${s}.unpark(p_group int, p_keys text[]) returns void
language sql volatile ${BY_INDEX} as $unpark$
  update ${s}.deliveries d set waiting = false, ready_at = clock_timestamp()
  where d.group_id = p_group and d.pos = any(array(
    select (
      select o.pos from ${s}.deliveries o
      where o.group_id = p_group and o.key = k.key and o.waiting and o.ready_at = 'infinity' order by o.pos limit 1
    )
    from unnest(p_keys) k(key)
  ))
$unpark$`;

/**
 * Finishes deliveries. Returns the positions that the consumer still held.
 *
 * `p_group`, `p_owner`, `p_pos` and `p_epochs` as in {@linkcode HELD}.
 */
const ACK = (s: string): string =>
  `create or replace function ${s}.ack(p_group int, p_owner text, p_pos bigint[], p_epochs int[]) returns setof bigint
language plpgsql ${BY_INDEX} as $ack$
declare
  v_pos bigint[];
  v_keys text[];
begin
  with finished as (
    delete from ${s}.deliveries d where ${HELD} returning d.pos, d.key
  )
  select array_agg(f.pos), array_agg(distinct f.key) filter (where f.key is not null)
    into v_pos, v_keys from finished f;
  if v_keys is not null then
    perform ${s}.unpark(p_group, v_keys);
  end if;
  return query select unnest(v_pos);
end
$ack$`;

/**
 * Counts that handlers begin. Returns position and count of those that the consumer still holds.
 *
 * The commit is not waited for: should the server crash at this moment, the count is one too low, which a message that
 * kills its consumers makes up for with the next one.
 *
 * `p_group`, `p_owner`, `p_pos` and `p_epochs` as in {@linkcode HELD}.
 */
const BEGIN = (s: string): string =>
  `create or replace function ${s}.begin(p_group int, p_owner text, p_pos bigint[], p_epochs int[])
returns table (pos bigint, started int)
language plpgsql ${BY_INDEX} as $begin$
begin
  perform set_config('synchronous_commit', 'off', true);
  return query update ${s}.deliveries d set started = d.started + 1 where ${HELD} returning d.pos, d.started;
end
$begin$`;

/**
 * Failed: to be handed out again with `attempt` one higher. Returns the positions that the consumer still held.
 *
 * `p_group`, `p_owner`, `p_pos` and `p_epochs` as in {@linkcode HELD}, `p_delay_ms`, `p_failed_at` (milliseconds since
 * 1970).
 */
const RETRY = (s: string): string =>
  `create or replace function ${s}.retry(
  p_group int, p_owner text, p_pos bigint[], p_epochs int[], p_delay_ms double precision, p_failed_at double precision
) returns setof bigint
language sql volatile ${BY_INDEX} as $retry$
  update ${s}.deliveries d set owner = null, redelivered = false, started = 0, attempt = d.attempt + 1,
    waiting = p_delay_ms > 0, ready_at = clock_timestamp() + p_delay_ms * interval '1 millisecond',
    first_failed_at = coalesce(d.first_failed_at, p_failed_at)
  where ${HELD} returning d.pos
$retry$`;

/** Not started: to be handed out again as it was. Arguments and result as above. */
const RELEASE = (s: string): string =>
  `create or replace function ${s}.release(p_group int, p_owner text, p_pos bigint[], p_epochs int[])
returns setof bigint
language sql volatile ${BY_INDEX} as $release$
  update ${s}.deliveries d set owner = null, redelivered = false, started = 0, waiting = false,
    ready_at = clock_timestamp()
  where ${HELD} returning d.pos
$release$`;

/** The lease starts anew, for `p_lease_ms`. Arguments and result as above. */
const EXTEND = (s: string): string =>
  `create or replace function ${s}.extend(
  p_group int, p_owner text, p_pos bigint[], p_epochs int[], p_lease_ms double precision
) returns setof bigint
language sql volatile ${BY_INDEX} as $extend$
  update ${s}.deliveries d set ready_at = clock_timestamp() + p_lease_ms * interval '1 millisecond'
  where ${HELD} returning d.pos
$extend$`;
