/**
 * What the ports of one store share.
 *
 * @module
 */
import { aborted, type Clock } from "../core/clock.ts";
import type { SqlSession, SqlValue } from "../ports/sql.ts";
import type { Continuity } from "./events/continuity.ts";
import type { Bell, PollIntervals } from "./wakeup.ts";
import type { Watermark } from "./watermark.ts";

/** The process's side of a store: everything that is not in the database. */
export interface StoreContext {
  /** The quoted schema. */
  readonly schema: string;
  /** For waiting only: times that are kept or compared come from the database. */
  readonly clock: Clock;
  readonly intervals: PollIntervals;
  /** How far the events can be read. */
  readonly watermark: Watermark;
  /** Whether the database is the one that was read before. */
  readonly continuity: Continuity;
  /** Rung when this process has appended and committed. */
  readonly appended: Bell;
}

/** Where statements run: on the pool, or in a transaction. */
export interface Scope {
  readonly session: SqlSession;
  readonly inTransaction: boolean;
  /** Called after an append; rings the bell now or after the commit. */
  readonly onAppend: () => void;
}

/** `{ [name]: value }`, or nothing for null: optional fields are absent, never `undefined`. */
export function optional<Name extends string, Value>(
  name: Name,
  value: Value | null | undefined,
): { [N in Name]?: Value } {
  return (value === null || value === undefined ? {} : { [name]: value }) as { [N in Name]?: Value };
}

/** One array per column, for `unnest`. A missing value is null. */
export function columns<Row>(
  rows: readonly Row[],
  ...fields: ReadonlyArray<(row: Row) => string | number | bigint | undefined>
): SqlValue[] {
  return fields.map((field) => rows.map((row) => field(row) ?? null));
}

/** Throws `ABORTED` if the signal has aborted. */
export function checkSignal(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw aborted(signal);
}

/** Text that Postgres can keep and compare: it has no NUL, and an index has bounds. */
export function storable(text: string): string {
  return text.replaceAll("\u0000", "\ufffd").slice(0, 500);
}
