/**
 * How far a table of positions can be read without skipping anything.
 *
 * Positions are drawn from a sequence, but transactions commit in another order: a reader that has seen position 7
 * may later find that 5 has appeared. Reading `where xid < xmin order by xid, pos` skips nothing, yet turns the order
 * inside a stream around when a transaction wrote something else before its append. So:
 *
 * 1. Writers have their xid before they draw a position (see the functions `append` and `publish`).
 * 2. A reader notes a pair (H, X): H, the highest position it can see, and X, a fresh xid of its own drawn after that.
 *    Every position up to H was drawn before H became visible, so its transaction has an xid below X.
 * 3. Once a snapshot's `xmin`, its oldest running transaction, is X or more, all of these have ended: what that
 *    snapshot sees up to H is final. The pair is checked in the same statement, hence the same snapshot, that reads.
 *
 * H is taken from what is visible, not from the sequence: a commit is flushed before it is visible, so the pair stays
 * true after a crash of the server, while a sequence that nobody flushed would hand out the same positions again.
 * A transaction that stays open for long, in any database of the server, delays readers; it never makes them skip.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { SqlRow, SqlValue } from "../ports/sql.ts";

/** A row of the CTE `horizon`. */
export interface HorizonRow extends SqlRow {
  /** Everything up to here is final. */
  readonly safe: string;
  /** H of this statement. */
  readonly newest: string;
  /** X of this statement; null if H is not new. */
  readonly mark: string | null;
  /** Whether the server is a read-only replica. */
  readonly replica: boolean;
  /** When the server began to run, as text. */
  readonly began: string;
}

/** What this process knows about one table. */
export interface Watermark {
  /** The values of `$1` to `$4` of {@linkcode horizon}. */
  values(options: { readonly mayMark: boolean }): readonly SqlValue[];
  /**
   * Takes in what a statement found, and returns how far it could read.
   *
   * @throws `UNSUPPORTED` on a read-only replica, which cannot draw an xid.
   */
  learn(row: HorizonRow): bigint;
}

/**
 * The CTEs `newest`, `mark` and `horizon` (one row, {@linkcode HorizonRow}).
 *
 * - `$1` bigint: known to be final; `$2` bigint: make a pair only if H is higher;
 * - `$3` bigint[], `$4` bigint[]: H and X of earlier pairs.
 *
 * @param table The quoted name of the table; it must have a unique bigint column `pos`.
 */
export const horizon = (table: string): string =>
  `newest as materialized (
  select coalesce(max(pos), 0) as h, pg_is_in_recovery() as replica, pg_postmaster_start_time()::text as began
  from ${table}
), mark as materialized (
  select h, replica, began, case when h > $2::bigint and not replica then pg_current_xact_id()::text::bigint end as x from newest
), horizon as materialized (
  select h as newest, x as mark, replica, began, greatest($1::bigint, (
    select max(p.h) from (select h, x from mark union all select * from unnest($3::bigint[], $4::bigint[])) p(h, x)
    where p.x <= pg_snapshot_xmin(pg_current_snapshot())::text::bigint
  )) as safe from mark
)`;

/** More pairs than this are not kept while a long transaction holds them up: the newest one is replaced. */
const MAX_PAIRS = 32;
const NEVER = 2n ** 63n - 1n;

/** Knows nothing yet: the first read looks for itself. */
export function watermark(): Watermark {
  let safe = 0n;
  let pairs: Array<{ readonly h: bigint; readonly x: bigint }> = []; // ascending in h
  let began: string | undefined;

  return {
    values({ mayMark }) {
      const newest = mayMark ? pairs.at(-1)?.h ?? safe : NEVER;
      return [safe, newest, pairs.map((pair) => pair.h), pairs.map((pair) => pair.x)];
    },
    learn(row) {
      if (row.replica) throw onReplica();
      // Another server, perhaps a restored copy, counts its xids differently.
      if (began !== row.began) pairs = [];
      began = row.began;
      const found = BigInt(row.safe);
      if (found > safe) safe = found;
      const made = row.mark === null ? undefined : { h: BigInt(row.newest), x: BigInt(row.mark) };
      if (made && made.h > (pairs.at(-1)?.h ?? 0n)) pairs = [...pairs.slice(0, MAX_PAIRS - 1), made];
      pairs = pairs.filter((pair) => pair.h > safe);
      return found;
    },
  };
}

function onReplica(): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    "Cannot read all events in order from a read-only replica: expected a connection to the primary",
  );
}
