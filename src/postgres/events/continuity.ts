/**
 * Whether the database still has what this process has read. After a failover to a standby that lagged behind, or a
 * restore of an older backup, committed events are gone, and their positions are used again for others: whoever reads
 * on from there misses those. So reading stops and says so.
 *
 * A server that takes over, or was restarted, began at another time. That comes with every read; only if it changes, the
 * last event read is looked for.
 *
 * @module
 */
import { MillstreamError } from "../../core/errors.ts";
import type { StoredEvent } from "../../ports/event_store.ts";
import type { SqlRow, SqlSession } from "../../ports/sql.ts";
import type { HorizonRow } from "../watermark.ts";

/** What one process knows about the database it reads from. */
export interface Continuity {
  /**
   * Checks that what is behind `after` follows on what was read before.
   *
   * @throws `REJECTED` if events that this process has read are gone, from then on always; `INVALID_ARGUMENT` if
   * `after` is behind all events.
   */
  check(session: SqlSession, row: HorizonRow, after: bigint): Promise<void>;
  /** Remembers the last event of a page. */
  saw(events: readonly StoredEvent[]): void;
}

/** Knows nothing yet. @param schema The quoted schema. */
export function continuity(schema: string): Continuity {
  let began: string | undefined;
  let anchor: StoredEvent | undefined;
  let lost: MillstreamError | undefined;

  async function findAnchor(session: SqlSession): Promise<void> {
    if (!anchor) return;
    const { position, id, stream, version } = anchor;
    const [row] = await session.query<FoundRow>(foundSql(schema), [position, id, stream, version]);
    if (!row?.found) lost = gone(anchor, row?.timeline);
  }

  return {
    async check(session, row, after) {
      if (began !== undefined && began !== row.began) await findAnchor(session);
      began = row.began;
      if (lost) throw lost;
      if (after <= BigInt(row.newest)) return;
      const [last] = await session.query<EndRow>(endSql(schema));
      const end = BigInt(last?.end ?? 0);
      if (after > end) throw behindTheEnd(after, end);
    },
    saw(events) {
      const last = events.at(-1);
      if (last && last.position > (anchor?.position ?? 0n)) anchor = last;
    },
  };
}

interface FoundRow extends SqlRow {
  readonly found: boolean;
  readonly timeline: string | null;
}

interface EndRow extends SqlRow {
  readonly end: string;
}

/** `$1` position, `$2` id, `$3` stream, `$4` version: whether that event is there, or was removed on purpose. */
const foundSql = (schema: string): string =>
  `select exists (select from ${schema}.events e where e.pos = $1::bigint and e.id = $2::text)
  or exists (select from ${schema}.events_archive e where e.pos = $1::bigint and e.id = $2::text)
  or exists (select from ${schema}.streams t where t.stream = $3::text and t.first > $4::int and t.version >= t.first)
  as found, case when not pg_is_in_recovery() then left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline`;

/** The highest position there is. */
const endSql = (schema: string): string =>
  `select greatest(
  (select coalesce(max(pos), 0) from ${schema}.events), (select coalesce(max(pos), 0) from ${schema}.events_archive)
) as end`;

function gone({ position, id, stream }: StoredEvent, timeline: string | null | undefined): MillstreamError {
  return new MillstreamError(
    "REJECTED",
    `Cannot read on after position ${position}: event "${id}" is gone since the server was restarted or replaced. ` +
      "Committed events were lost, and their positions may be used again. Bring them back, or rebuild what was derived " +
      "from them, and start this process again",
    { details: { lost: true, position: String(position), id, stream, timeline: timeline ?? null } },
  );
}

function behindTheEnd(after: bigint, end: bigint): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot read after position ${after}: expected one up to ${end}, where the store ends. Either it is none of this ` +
      "store, or the database has lost committed events",
    { details: { option: "after", after: String(after), end: String(end) } },
  );
}
