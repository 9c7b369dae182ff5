/**
 * Migration 2: topics, messages, groups, deliveries and dead letters, and functions that work on them. Functions that a
 * later migration defines anew are only found there.
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
    DEAD_LETTER(s),
    PRUNE(s),
  ];
}

/** Publishers and pruning share it, who creates a group excludes them. */
export const topicLock = (s: string): string => `hashtext('${s}.topics')`;

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
