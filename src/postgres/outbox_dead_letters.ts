/**
 * Messages in the outbox that the broker refused, on Postgres. They stay where they are, marked as dead.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../ports/dead_letters.ts";
import type { SqlRow, SqlSession, SqlValue } from "../ports/sql.ts";
import { optional } from "./context.ts";

/** The group that all of them have: nobody has consumed them yet. */
const GROUP = "outbox";

/** The dead letters of the outbox. @param schema Quoted. */
export function outboxDeadLetters(session: SqlSession, schema: string): DeadLetters {
  async function list(
    filter: DeadLetterFilter,
    page: { readonly limit: number; readonly after?: string },
  ): Promise<readonly DeadLetter[]> {
    checkRange("limit", page.limit, 1, 2 ** 31 - 1, true);
    const values = [...valuesOf(filter), number(page.after ?? "0"), page.limit];
    return (await session.query<DeadRow>(listSql(schema), values)).map(letterOf);
  }

  async function count(filter: DeadLetterFilter): Promise<number> {
    const [row] = await session.query<{ found: number }>(countSql(schema), valuesOf(filter));
    return row?.found ?? 0;
  }

  async function get(deadLetterId: string): Promise<DeadLetter | undefined> {
    const [row] = await session.query<DeadRow>(getSql(schema), [number(deadLetterId)]);
    return row && letterOf(row);
  }

  async function redrive(deadLetterId: string): Promise<boolean> {
    return (await session.query(redriveSql(schema), [number(deadLetterId)])).length > 0;
  }

  async function remove(deadLetterId: string): Promise<boolean> {
    return (await session.query(removeSql(schema), [number(deadLetterId)])).length > 0;
  }

  return { list, count, get, redrive, remove };
}

const select = (schema: string): string =>
  `select pos, topic, id, type, key, body, attempts, redrives, first_failed_at, failure from ${schema}.outbox where dead`;

/** `$1` topic, `$2` group, `$3` type, `$4` error and `$5` time in milliseconds, each or null. */
const MATCHING = `($1::text is null or topic = $1) and ($2::text is null or $2 = '${GROUP}')
  and ($3::text is null or type = $3) and ($4::text is null or error = $4) and ($5::float8 is null or failed_at < $5)`;

/** `$1` to `$5` as in {@linkcode MATCHING}, `$6` position, `$7` limit. */
const listSql = (schema: string): string =>
  `${select(schema)} and ${MATCHING} and pos > $6::bigint order by pos limit $7::int`;

/** `$1` to `$5` as in {@linkcode MATCHING}. */
const countSql = (schema: string): string =>
  `select count(*)::float8 as found from ${schema}.outbox where dead and ${MATCHING}`;

/** `$1` position. */
const getSql = (schema: string): string => `${select(schema)} and pos = $1::bigint`;

/** `$1` position. Its lane waits for it again if it has not gone past it. */
const redriveSql = (schema: string): string =>
  `update ${schema}.outbox set dead = false, attempts = 0, retry_at = null, redrives = redrives + 1
where pos = $1::bigint and dead returning 1`;

/** `$1` position. */
const removeSql = (schema: string): string =>
  `delete from ${schema}.outbox where pos = $1::bigint and dead returning 1`;

interface DeadRow extends SqlRow {
  readonly pos: string;
  readonly topic: string;
  readonly id: string;
  readonly type: string;
  readonly key: string | null;
  readonly body: string;
  readonly attempts: number;
  readonly redrives: number;
  readonly first_failed_at: number;
  readonly failure: string;
}

function letterOf(row: DeadRow): DeadLetter {
  return {
    deadLetterId: row.pos,
    topic: row.topic,
    group: GROUP,
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

function valuesOf({ topic, group, type, error, before }: DeadLetterFilter): SqlValue[] {
  return [topic ?? null, group ?? null, type ?? null, error ?? null, before ?? null];
}

/** An id as a number; one that nothing has if it is not one of ours. */
function number(deadLetterId: string): string {
  return /^\d{1,18}$/.test(deadLetterId) ? deadLetterId : "-1";
}
