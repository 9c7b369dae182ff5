/**
 * Checkpoints in memory.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { Checkpoints } from "../ports/checkpoints.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** Positions by reader. */
export type CheckpointRows = Table<bigint>;

/** The checkpoint port on a session. */
export function memoryCheckpoints(session: Session, rows: CheckpointRows): Checkpoints {
  return {
    load: (name) => session.run(() => rows.get(name) ?? 0n),
    advance: (name, from, to) =>
      session.run(() => {
        const current = rows.get(name) ?? 0n;
        if (current === from) return rows.set(session, name, to);
        throw new MillstreamError(
          "LEASE_LOST",
          `Cannot advance checkpoint "${name}": expected position ${from}, got ${current}`,
          { details: { name, expected: `${from}`, current: `${current}` } },
        );
      }),
    remove: (name) => session.run(() => rows.delete(session, name)),
  };
}
