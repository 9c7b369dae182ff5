/**
 * Snapshots in memory.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { Snapshot, Snapshots } from "../ports/snapshots.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** What snapshots work with. */
export interface SnapshotSetting {
  /** By stream; then by fold. */
  readonly rows: Table<ReadonlyMap<string, { readonly snapshot: Snapshot; readonly at: number }>>;
  readonly clock: Clock;
}

const WEEK_MS = 7 * 86_400_000;

/** The snapshot port on a session. */
export function memorySnapshots(session: Session, { rows, clock }: SnapshotSetting): Snapshots {
  return {
    load: (stream, fold) => session.run(() => rows.get(stream)?.get(fold)?.snapshot),
    save: (snapshot) =>
      session.run(() => {
        const at = clock.now();
        const fresh = Array.from(rows.get(snapshot.stream) ?? []).filter(([, row]) => row.at > at - WEEK_MS);
        rows.set(session, snapshot.stream, new Map([...fresh, [snapshot.fold, { snapshot, at }]]));
      }),
  };
}
