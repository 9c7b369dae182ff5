/**
 * Migration 9: messages in the outbox that the broker refuses. Their lane waits for the next try, and after the last
 * one they are dead letters.
 *
 * The functions leave the planner one way, by index: the table is empty at one moment and full at the next.
 *
 * @module
 */
import { BY_INDEX } from "./by_index.ts";

/** The statements, in order. @param s The quoted schema. */
export function outboxMigration(s: string): readonly string[] {
  return [
    // retry_at: when the lane may go on. Times of failures: milliseconds since 1970, by the relay's clock.
    `alter table ${s}.outbox
  add column if not exists attempts int not null default 0,
  add column if not exists retry_at timestamptz,
  add column if not exists redrives int not null default 0,
  add column if not exists first_failed_at double precision,
  add column if not exists failed_at double precision,
  add column if not exists error text,
  add column if not exists failure text,
  add column if not exists dead boolean not null default false`,
    `drop index if exists ${s}.outbox_unsent`,
    `create index if not exists outbox_pending on ${s}.outbox (pos) where sent_at is null and not dead`,
    `create index if not exists outbox_retrying on ${s}.outbox (pos) where retry_at is not null`,
    `create index if not exists outbox_dead on ${s}.outbox (pos) where dead`,
    PENDING(s),
    OLDEST_AGE(s),
    MARK_SENT(s),
    MARK_REFUSED(s),
    UNSEND(s),
    PRUNE(s),
  ];
}

/**
 * The oldest messages that may be sent, at most `p_limit`. Looks for what is unsent, not for what is new since the last
 * look: a message that commits late is sent late, and never left behind. The order keeps each stream's order, because
 * an append draws its positions while it holds the stream's row.
 */
const PENDING = (s: string): string =>
  `create or replace function ${s}.outbox_pending(p_limit int)
returns table (pos bigint, topic text, id text, type text, key text, body text, attempts int)
language sql volatile ${BY_INDEX} as $pending$
  with waiting as materialized (
    select w.topic, w.key from ${s}.outbox w where w.retry_at is not null and w.retry_at > clock_timestamp()
  )
  select o.pos, o.topic, o.id, o.type, o.key, o.body, o.attempts
  from ${s}.outbox o
  where o.sent_at is null and not o.dead and not exists (
    select from waiting w where w.topic = o.topic and w.key is not distinct from o.key
  )
  order by o.pos limit p_limit
$pending$`;

/** For how many milliseconds the oldest message has been waiting. Null if none is. */
const OLDEST_AGE = (s: string): string =>
  `create or replace function ${s}.outbox_oldest_age() returns double precision
language sql volatile ${BY_INDEX} as $age$
  select (extract(epoch from clock_timestamp() - o.created_at) * 1000)::float8
  from ${s}.outbox o where o.sent_at is null and not o.dead order by o.pos limit 1
$age$`;

/** Returns false unless the lease is held, which then stays so until the transaction ends. */
const MUST_HOLD = (s: string): string =>
  `perform from ${s}.leases l
    where l.name = p_lease and l.owner = p_owner and l.epoch = p_epoch and l.expires_at > clock_timestamp() for share;
  if not found then
    return false;
  end if;`;

/**
 * Marks messages as sent. False, and nothing marked, if the lease is lost.
 *
 * `p_pos`; `p_lease`, `p_owner` and `p_epoch` of the lease.
 */
const MARK_SENT = (s: string): string =>
  `create or replace function ${s}.outbox_mark_sent(p_pos bigint[], p_lease text, p_owner text, p_epoch int)
returns boolean
language plpgsql ${BY_INDEX} as $sent$
begin
  ${MUST_HOLD(s)}
  update ${s}.outbox o set sent_at = clock_timestamp(), retry_at = null
    where o.pos = any(p_pos) and o.sent_at is null and not o.dead;
  return true;
end
$sent$`;

/**
 * Notes a refusal. False, and nothing noted, if the lease is lost.
 *
 * `p_pos`, `p_delay_ms` (null: given up), `p_failed_at`, `p_error`, `p_failure` (JSON); `p_lease`,
 * `p_owner` and `p_epoch` of the lease.
 */
const MARK_REFUSED = (s: string): string =>
  `create or replace function ${s}.outbox_mark_refused(
  p_pos bigint, p_delay_ms double precision, p_failed_at double precision, p_error text, p_failure text,
  p_lease text, p_owner text, p_epoch int
) returns boolean
language plpgsql ${BY_INDEX} as $refused$
begin
  ${MUST_HOLD(s)}
  update ${s}.outbox o set attempts = o.attempts + 1, retry_at = clock_timestamp() + p_delay_ms * interval '1 millisecond',
      first_failed_at = coalesce(o.first_failed_at, p_failed_at), failed_at = p_failed_at, error = p_error,
      failure = p_failure, dead = p_delay_ms is null
    where o.pos = p_pos and o.sent_at is null and not o.dead;
  return true;
end
$refused$`;

/** Takes back what was sent at or after `p_since`. Returns how many. Reads the whole table. */
const UNSEND = (s: string): string =>
  `create or replace function ${s}.outbox_unsend(p_since timestamptz) returns bigint
language sql volatile as $unsend$
  with again as (
    update ${s}.outbox o set sent_at = null, attempts = 0 where o.sent_at >= p_since returning 1
  )
  select count(*) from again
$unsend$`;

/**
 * Forgets messages that were sent more than `p_retention_ms` ago: looks at `p_limit` messages after `p_after`.
 * Returns how many went and where to look next (0: from the beginning).
 */
const PRUNE = (s: string): string =>
  `create or replace function ${s}.prune_outbox(p_after bigint, p_limit int, p_retention_ms double precision)
returns table (deleted int, next_after bigint)
language plpgsql ${BY_INDEX} as $prune$
declare
  v_before constant timestamptz := clock_timestamp() - p_retention_ms * interval '1 millisecond';
  v_pos bigint[];
  v_last bigint;
  v_looked int;
begin
  select array_agg(l.pos) filter (where l.sent_at <= v_before), max(l.pos), count(*) into v_pos, v_last, v_looked
    from (select o.pos, o.sent_at from ${s}.outbox o where o.pos > p_after order by o.pos limit p_limit) l;
  delete from ${s}.outbox o where o.pos = any(v_pos) and o.sent_at <= v_before;
  get diagnostics deleted = row_count;
  next_after := case when v_looked < p_limit then 0 else v_last end;
  return next;
end
$prune$`;
