/**
 * The inbox on Postgres: one row per handled message and group.
 *
 * @module
 */
import { checkText } from "../core/names.ts";
import type { Inbox } from "../ports/inbox.ts";
import type { SqlSession } from "../ports/sql.ts";

/** An inbox on a session. @param schema Quoted. */
export function inbox(session: SqlSession, schema: string): Inbox {
  async function record(group: string, messageId: string): Promise<boolean> {
    checkText("group", group);
    checkText("message id", messageId, 512);
    return (await session.query(recordSql(schema), [group, messageId])).length > 0;
  }

  async function seen(group: string, messageIds: readonly string[]): Promise<ReadonlySet<string>> {
    if (messageIds.length === 0) return new Set();
    const rows = await session.query<{ message_id: string }>(seenSql(schema), [group, messageIds]);
    return new Set(rows.map((row) => row.message_id));
  }

  async function forget(ageMs: number): Promise<number> {
    let total = 0;
    for (let deleted = FORGET_BATCH; deleted === FORGET_BATCH; total += deleted) {
      const [row] = await session.query<{ deleted: number }>(forgetSql(schema), [ageMs, FORGET_BATCH]);
      deleted = row?.deleted ?? 0;
    }
    return total;
  }

  return { record, seen, forget };
}

/** Rows forgotten by one statement: none may lock or log too much at once. */
const FORGET_BATCH = 10_000;

/**
 * `$1` group, `$2` message id. A row if it is new. Waits for a transaction that has recorded the same and is still
 * open: the primary key makes sure of it.
 */
const recordSql = (schema: string): string =>
  `insert into ${schema}.inbox (grp, message_id) values ($1::text, $2::text) on conflict do nothing returning 1`;

/** `$1` group, `$2` message ids. */
const seenSql = (schema: string): string =>
  `select message_id from ${schema}.inbox where grp = $1::text and message_id = any($2::text[])`;

/** `$1` age in milliseconds, `$2` at most this many. */
const forgetSql = (schema: string): string =>
  `with gone as (
  delete from ${schema}.inbox where (grp, message_id) in (
    select grp, message_id from ${schema}.inbox
    where handled_at < statement_timestamp() - $1::float8 * interval '1 millisecond' limit $2::int
  )
  returning 1
)
select count(*)::int as deleted from gone`;
