/**
 * Dead letters on Postgres. The original bytes stay in the table of messages, which keeps what a dead letter points to.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../../ports/dead_letters.ts";
import type { SqlRow } from "../../ports/sql.ts";
import { optional } from "../context.ts";
import type { BrokerContext } from "./context.ts";

/** The dead letters of all groups of a broker. */
export function deadLetters({ session, schema, bells }: BrokerContext): DeadLetters {
  async function list(
    filter: DeadLetterFilter,
    page: { readonly limit: number; readonly after?: string },
  ): Promise<readonly DeadLetter[]> {
    checkRange("limit", page.limit, 1, 2 ** 31 - 1, true);
    const { topic, group, type, error, before } = filter;
    const values = [
      topic ?? null,
      group ?? null,
      type ?? null,
      error ?? null,
      before ?? null,
      number(page.after ?? "0"),
    ];
    const rows = await session.query<DeadLetterRow>(listSql(schema), [...values, page.limit]);
    return rows.map(readRow);
  }

  async function get(deadLetterId: string): Promise<DeadLetter | undefined> {
    const [row] = await session.query<DeadLetterRow>(getSql(schema), [number(deadLetterId)]);
    return row && readRow(row);
  }

  async function redrive(deadLetterId: string): Promise<boolean> {
    const [row] = await session.query<{ topic: string; grp: string }>(redriveSql(schema), [
      number(deadLetterId),
    ]);
    if (row) bells.get(row.topic, row.grp).ring();
    return row !== undefined;
  }

  async function remove(deadLetterId: string): Promise<boolean> {
    return (await session.query(removeSql(schema), [number(deadLetterId)])).length > 0;
  }

  async function count(filter: DeadLetterFilter): Promise<number> {
    const { topic, group, type, error, before } = filter;
    const values = [topic ?? null, group ?? null, type ?? null, error ?? null, before ?? null];
    const [row] = await session.query<{ found: number }>(countSql(schema), values);
    return row?.found ?? 0;
  }

  return { list, count, get, redrive, remove };
}

const selectSql = (schema: string): string =>
  `select x.id::text as dead_letter_id, t.name as topic, g.name as grp, m.id, m.type, m.key, m.body,
  x.attempts, x.redrives, x.first_failed_at, x.failure
from ${schema}.dead_letters x
join ${schema}.groups g on g.id = x.group_id join ${schema}.topics t on t.id = g.topic_id
join ${schema}.messages m on m.pos = x.pos`;

/** `$1` topic, `$2` group, `$3` type, `$4` error and `$5` time in milliseconds, each or null; `$6` id, `$7` limit. */
const listSql = (schema: string): string =>
  `${selectSql(schema)}
where ($1::text is null or t.name = $1) and ($2::text is null or g.name = $2) and ($3::text is null or m.type = $3)
  and ($4::text is null or x.error = $4) and ($5::float8 is null or x.failed_at < $5) and x.id > $6::bigint
order by x.id limit $7::int`;

/** `$1` to `$5` as in {@linkcode listSql}. */
const countSql = (schema: string): string =>
  `select count(*)::float8 as found from (${selectSql(schema)}
where ($1::text is null or t.name = $1) and ($2::text is null or g.name = $2) and ($3::text is null or m.type = $3)
  and ($4::text is null or x.error = $4) and ($5::float8 is null or x.failed_at < $5)) matching`;

/** `$1` id. */
const getSql = (schema: string): string => `${selectSql(schema)} where x.id = $1::bigint`;

/**
 * `$1` id. The epoch goes on from where it was: a consumer that still holds an old token of the same message cannot
 * settle the new delivery with it.
 */
const redriveSql = (schema: string): string =>
  `with dead as (
  delete from ${schema}.dead_letters where id = $1::bigint returning group_id, pos, epoch, redrives, first_failed_at
), given as (
  insert into ${schema}.deliveries (group_id, pos, key, waiting, ready_at, epoch, redrives, first_failed_at)
  select dead.group_id, dead.pos, m.key, false, clock_timestamp(), dead.epoch, dead.redrives + 1, dead.first_failed_at
  from dead join ${schema}.messages m on m.pos = dead.pos
  on conflict (group_id, pos) do nothing
)
select t.name as topic, g.name as grp from dead
join ${schema}.groups g on g.id = dead.group_id join ${schema}.topics t on t.id = g.topic_id`;

/** `$1` id. */
const removeSql = (schema: string): string =>
  `delete from ${schema}.dead_letters where id = $1::bigint returning 1`;

interface DeadLetterRow extends SqlRow {
  readonly dead_letter_id: string;
  readonly topic: string;
  readonly grp: string;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
  readonly attempts: number;
  readonly redrives: number;
  readonly first_failed_at: number;
  readonly failure: string;
}

function readRow(row: DeadLetterRow): DeadLetter {
  return {
    deadLetterId: row.dead_letter_id,
    topic: row.topic,
    group: row.grp,
    id: row.id,
    type: row.type,
    ...optional("key", row.key),
    body: row.body,
    attempts: row.attempts,
    redrives: row.redrives,
    firstFailedAt: row.first_failed_at,
    failure: JSON.parse(row.failure) as Failure,
  };
}

/** An id as a number; one that nothing has if it is not one of ours. */
function number(deadLetterId: string): string {
  return /^\d{1,18}$/.test(deadLetterId) ? deadLetterId : "-1";
}
