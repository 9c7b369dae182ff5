/**
 * Checkpoints on Postgres, moved by compare and set.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import { checkText } from "../core/names.ts";
import type { Checkpoints } from "../ports/checkpoints.ts";
import type { SqlSession } from "../ports/sql.ts";

/** Checkpoints on a session. @param schema Quoted. */
export function checkpoints(session: SqlSession, schema: string): Checkpoints {
  async function load(name: string): Promise<bigint> {
    const [row] = await session.query<{ position: string }>(loadSql(schema), [checkText("checkpoint", name)]);
    return BigInt(row?.position ?? 0);
  }

  async function advance(name: string, from: bigint, to: bigint): Promise<void> {
    const rows = await session.query(advanceSql(schema), [checkText("checkpoint", name), from, to]);
    if (rows.length > 0) return;
    throw new MillstreamError(
      "LEASE_LOST",
      `Cannot move checkpoint ${
        describe(name)
      } to ${to}: expected it at ${from}, but another worker has moved it`,
      { details: { name, from: String(from), to: String(to) } },
    );
  }

  async function remove(name: string): Promise<void> {
    await session.query(removeSql(schema), [checkText("checkpoint", name)]);
  }

  return { load, advance, remove };
}

/** `$1` name. */
const loadSql = (schema: string): string =>
  `select position from ${schema}.checkpoints where name = $1::text`;

/** `$1` name, `$2` from, `$3` to. No row if it does not stand at `$2`; one that does not exist stands at 0. */
const advanceSql = (schema: string): string =>
  `insert into ${schema}.checkpoints as c (name, position)
select $1::text, $3::bigint
where $2::bigint = 0 or exists (select from ${schema}.checkpoints where name = $1::text)
on conflict (name) do update set position = excluded.position, moved_at = clock_timestamp()
where c.position = $2::bigint
returning 1`;

/** `$1` name. */
const removeSql = (schema: string): string => `delete from ${schema}.checkpoints where name = $1::text`;
