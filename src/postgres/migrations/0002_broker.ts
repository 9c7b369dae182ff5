/**
 * Migration 2: topics, messages, groups, deliveries and dead letters, and the functions that work on them.
 *
 * A message is written once; every group gets a small delivery row for it in the same statement. A message that
 * commits late can therefore not be skipped by anybody. A delivery row is there as long as it is unfinished:
 *
 * | state | waiting | ready_at | owner |
 * |---|---|---|---|
 * | ready | no | – | – |
 * | handed out | yes | when the lease ends | the consumer |
 * | delayed, or waits for its retry | yes | when it is due | – |
 * | parked behind an earlier message of its key | yes | infinity | – |
 *
 * @module
 */

/** The statements, in order. @param s The quoted schema. */
export function brokerMigration(s: string): readonly string[] {
  return [
    ...TABLES(s),
    TOPIC_ID(s),
    PUBLISH(s),
    SUBSCRIBE(s),
    PULL(s),
    UNPARK(s),
    ACK(s),
    DEAD_LETTER(s),
    PRUNE(s),
  ];
}

/** Publishers and pruning share it, who creates a group excludes them. */
export const topicLock = (s: string): string => `hashtext('${s}.topics')`;
/** One pull at a time in each group. */
const groupLock = (s: string): string => `hashtext('${s}.groups')`;

const TABLES = (s: string): readonly string[] => [
  // trimmed: the highest position of a message that was deleted.
  `create table if not exists ${s}.topics (
  id int generated always as identity primary key,
  name text collate "C" not null unique,
  trimmed bigint not null default 0
)`,

  `create table if not exists ${s}.messages (
  pos bigint generated always as identity primary key,
  topic_id int not null,
  id text collate "C" not null,
  type text collate "C" not null,
  key text collate "C",
  body text not null,
  published_at timestamptz not null default clock_timestamp(),
  visible_at timestamptz,
  unique (topic_id, id)
)`,
  `create index if not exists messages_topic on ${s}.messages (topic_id, pos)`,
  `create index if not exists messages_published on ${s}.messages using brin (published_at)`,

  `create table if not exists ${s}.groups (
  id int generated always as identity primary key,
  topic_id int not null,
  name text collate "C" not null,
  unique (topic_id, name)
)`,

  // epoch: how often it was handed out. first_failed_at: milliseconds since 1970, by the consumer's clock.
  `create table if not exists ${s}.deliveries (
  group_id int not null,
  pos bigint not null,
  key text collate "C",
  waiting boolean not null,
  ready_at timestamptz not null,
  owner text collate "C",
  epoch int not null default 0,
  attempt int not null default 1,
  redelivered boolean not null default false,
  redrives int not null default 0,
  first_failed_at double precision,
  primary key (group_id, pos)
)`,
  `create index if not exists deliveries_ready on ${s}.deliveries (group_id, pos) where not waiting`,
  `create index if not exists deliveries_waiting on ${s}.deliveries (group_id, ready_at) where waiting`,
  `create index if not exists deliveries_key on ${s}.deliveries (group_id, key, pos) where key is not null`,
  `create index if not exists deliveries_out on ${s}.deliveries (group_id, key) where key is not null and owner is not null`,

  // The original bytes stay in messages, which keeps what a dead letter points to.
  `create table if not exists ${s}.dead_letters (
  id bigint generated always as identity primary key,
  group_id int not null,
  pos bigint not null,
  epoch int not null,
  attempts int not null,
  redrives int not null,
  first_failed_at double precision not null,
  failed_at double precision not null,
  error text not null,
  failure text not null
)`,
  `create index if not exists dead_letters_message on ${s}.dead_letters (pos)`,
  `create index if not exists dead_letters_group on ${s}.dead_letters (group_id, id)`,
];

/** The id of a topic, which is created if needed. */
const TOPIC_ID = (s: string): string =>
  `create or replace function ${s}.topic_id(p_topic text) returns int
language plpgsql as $topic$
declare
  v_topic int;
begin
  loop
    select t.id into v_topic from ${s}.topics t where t.name = p_topic;
    exit when found;
    insert into ${s}.topics (name) values (p_topic) on conflict (name) do nothing returning id into v_topic;
    exit when found;
  end loop;
  return v_topic;
end
$topic$`;

/**
 * Publishes to a topic, creating it if needed; ids the topic still knows are left out. The xid comes before the
 * positions, for the watermark of the topic log.
 *
 * `p_topic`, `p_ids`, `p_types`, `p_keys`, `p_bodies` (one element per message), `p_delay_ms`.
 */
const PUBLISH = (s: string): string =>
  `create or replace function ${s}.publish(
  p_topic text, p_ids text[], p_types text[], p_keys text[], p_bodies text[], p_delay_ms double precision
) returns void
language plpgsql as $publish$
declare
  v_topic int := ${s}.topic_id(p_topic);
  v_ready timestamptz;
begin
  perform pg_advisory_xact_lock_shared(${topicLock(s)}, v_topic);
  perform pg_current_xact_id();
  v_ready := clock_timestamp() + p_delay_ms * interval '1 millisecond';
  with added as (
    insert into ${s}.messages (topic_id, id, type, key, body, visible_at)
    select v_topic, u.id, u.type, u.key, u.body, case when p_delay_ms > 0 then v_ready end
    from unnest(p_ids, p_types, p_keys, p_bodies) with ordinality u(id, type, key, body, nth) order by u.nth
    on conflict (topic_id, id) do nothing
    returning messages.pos, messages.key
  )
  insert into ${s}.deliveries (group_id, pos, key, waiting, ready_at)
  select g.id, a.pos, a.key, p_delay_ms > 0, v_ready
  from ${s}.groups g cross join added a where g.topic_id = v_topic order by g.id, a.pos;
end
$publish$`;

/**
 * The id of a group; topic and group are created if they do not exist. A new group from the start gets every message the topic still holds.
 * The lock keeps publishers out, so that each message reaches the group by exactly one of the two ways.
 *
 * `p_topic`, `p_group`, `p_from_start`.
 */
const SUBSCRIBE = (s: string): string =>
  `create or replace function ${s}.subscribe(p_topic text, p_group text, p_from_start boolean) returns int
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
  elsif p_from_start then
    insert into ${s}.deliveries (group_id, pos, key, waiting, ready_at)
    select v_group, m.pos, m.key, coalesce(m.visible_at > clock_timestamp(), false), coalesce(m.visible_at, clock_timestamp())
    from ${s}.messages m where m.topic_id = v_topic order by m.pos;
  end if;
  return v_group;
end
$subscribe$`;

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
 * `p_group` (its id), `p_owner` (the consumer), `p_max`, `p_lease_ms`.
 */
const PULL = (s: string): string =>
  `create or replace function ${s}.pull(p_group int, p_owner text, p_max int, p_lease_ms double precision)
returns table (pos bigint, id text, type text, key text, body text, epoch int, attempt int, redelivered boolean)
language plpgsql as $pull$
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
  v_now := clock_timestamp();

  update ${s}.deliveries d
    set waiting = false, owner = null, redelivered = d.redelivered or d.owner is not null
    where d.group_id = p_group and d.waiting and d.pos in (
      select w.pos from ${s}.deliveries w where w.group_id = p_group and w.waiting and w.ready_at <= v_now
      order by w.ready_at limit greatest(p_max, 1000) for update skip locked
    );

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
language sql volatile as $unpark$
  update ${s}.deliveries d set waiting = false, ready_at = clock_timestamp()
  where d.group_id = p_group and d.pos in (
    select (
      select o.pos from ${s}.deliveries o
      where o.group_id = p_group and o.key = k.key and o.waiting and o.ready_at = 'infinity' order by o.pos limit 1
    )
    from unnest(p_keys) k(key)
  )
$unpark$`;

/**
 * Finishes deliveries. Returns the positions that the consumer still held.
 *
 * `p_group`, `p_owner`, `p_pos` and `p_epochs` (one element per delivery).
 */
const ACK = (s: string): string =>
  `create or replace function ${s}.ack(p_group int, p_owner text, p_pos bigint[], p_epochs int[]) returns setof bigint
language plpgsql as $ack$
declare
  v_pos bigint[];
  v_keys text[];
begin
  with finished as (
    delete from ${s}.deliveries d using unnest(p_pos, p_epochs) u(pos, epoch)
    where d.group_id = p_group and d.pos = u.pos and d.epoch = u.epoch and d.owner = p_owner
    returning d.pos, d.key
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
 * Takes a delivery from the group and keeps it as a dead letter. False if the consumer no longer held it.
 *
 * `p_group`, `p_owner`, `p_pos`, `p_epoch`, `p_failed_at` (milliseconds since 1970), `p_error`, `p_failure` (JSON).
 */
const DEAD_LETTER = (s: string): string =>
  `create or replace function ${s}.dead_letter(
  p_group int, p_owner text, p_pos bigint, p_epoch int, p_failed_at double precision, p_error text, p_failure text
) returns boolean
language plpgsql as $dead$
declare
  v_key text;
begin
  with finished as (
    delete from ${s}.deliveries d
    where d.group_id = p_group and d.pos = p_pos and d.epoch = p_epoch and d.owner = p_owner
    returning d.key, d.epoch, d.attempt, d.redrives, d.first_failed_at
  ), kept as (
    insert into ${s}.dead_letters (group_id, pos, epoch, attempts, redrives, first_failed_at, failed_at, error, failure)
    select p_group, p_pos, f.epoch, f.attempt, f.redrives, coalesce(f.first_failed_at, p_failed_at), p_failed_at, p_error,
      p_failure
    from finished f
  )
  select f.key into v_key from finished f;
  if not found then
    return false;
  end if;
  if v_key is not null then
    perform ${s}.unpark(p_group, array[v_key]);
  end if;
  return true;
end
$dead$`;

/**
 * Deletes messages that are older than the retention, finished in every group and not dead anywhere: looks at
 * `p_limit` messages after `p_after`. Returns how many it deleted and where to look next (0: from the beginning).
 * A topic for which a group is being created is left for later: that group is about to count on its messages.
 *
 * `p_after`, `p_limit`, `p_retention_ms`.
 */
const PRUNE = (s: string): string =>
  `create or replace function ${s}.prune_messages(p_after bigint, p_limit int, p_retention_ms double precision)
returns table (deleted int, next_after bigint)
language plpgsql as $prune$
declare
  v_before constant timestamptz := clock_timestamp() - p_retention_ms * interval '1 millisecond';
  v_topics int[];
  v_count int;
  v_last bigint;
  v_last_at timestamptz;
begin
  select array_agg(distinct l.topic_id), count(*), max(l.pos), max(l.published_at)
    into v_topics, v_count, v_last, v_last_at
    from (
      select m.topic_id, m.pos, m.published_at from ${s}.messages m where m.pos > p_after order by m.pos limit p_limit
    ) l;
  v_topics := array(
    select u.id from unnest(v_topics) u(id) where pg_try_advisory_xact_lock_shared(${topicLock(s)}, u.id)
  );
  with gone as (
    delete from ${s}.messages m
    where m.pos > p_after and m.pos <= v_last and m.topic_id = any(v_topics)
      and m.published_at < v_before and coalesce(m.visible_at < v_before, true)
      and not exists (
        select from ${s}.groups g join ${s}.deliveries d on d.group_id = g.id and d.pos = m.pos
        where g.topic_id = m.topic_id
      )
      and not exists (select from ${s}.dead_letters x where x.pos = m.pos)
    returning m.topic_id, m.pos
  ), noted as (
    update ${s}.topics t set trimmed = greatest(t.trimmed, g.pos)
    from (select gone.topic_id, max(gone.pos) as pos from gone group by gone.topic_id) g where t.id = g.topic_id
  )
  select count(*) into deleted from gone;
  next_after := case when v_count < p_limit or v_last_at >= v_before then 0 else v_last end;
  return next;
end
$prune$`;
