/**
 * Rows by key, whose changes a transaction can undo.
 *
 * @module
 */
import type { Session } from "./session.ts";

/** Rows by key. Replace a row to change it. */
export interface Table<Row> {
  get(key: string): Row | undefined;
  /** All rows, in no particular order. */
  rows(): Iterable<readonly [key: string, row: Row]>;
  set(session: Session, key: string, row: Row): void;
  delete(session: Session, key: string): void;
}

/** An empty table. */
export function createTable<Row>(): Table<Row> {
  const rows = new Map<string, Row>();

  function restoring(key: string): () => void {
    const before = rows.get(key);
    return () => void (before === undefined ? rows.delete(key) : rows.set(key, before));
  }

  return {
    get: (key) => rows.get(key),
    rows: () => rows,
    set(session, key, row) {
      session.undo(restoring(key));
      rows.set(key, row);
    },
    delete(session, key) {
      session.undo(restoring(key));
      rows.delete(key);
    },
  };
}
