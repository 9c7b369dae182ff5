/**
 * Positions after a restore.
 *
 * @module
 */
import type { SqlSession } from "../../ports/sql.ts";

/**
 * Lets the next position follow the last event there is, if it does not: the sequence is a thing of its own, and a
 * restore of the tables alone leaves it behind. It is never set back. Nothing else needs to be adjusted after a dump and
 * restore: no xid is stored anywhere, so it does not matter where the new server's begin.
 */
export async function alignPositions(session: SqlSession, schema: string): Promise<void> {
  await session.query(alignSql(schema));
}

const alignSql = (schema: string): string =>
  `select setval('${schema}.event_positions', last.pos)
from (
  select greatest(
    (select coalesce(max(pos), 0) from ${schema}.events), (select coalesce(max(pos), 0) from ${schema}.events_archive)
  ) as pos
) last, ${schema}.event_positions s
where last.pos > s.last_value or (last.pos = s.last_value and not s.is_called)`;
