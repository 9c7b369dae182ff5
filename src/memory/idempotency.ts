/**
 * Idempotency keys in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { IdempotencyKeys, IdempotencyState } from "../ports/idempotency.ts";
import type { Bell } from "./bell.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** Keys. A key that was abandoned stays, so that its epoch goes on growing. */
export type IdempotencyRows = Table<KeyRow>;

interface KeyRow {
  readonly fingerprint: string;
  readonly epoch: number;
  readonly result: string | undefined;
  /** End of the lease while it runs, of the result once it is done; 0 when abandoned (monotonic). */
  readonly until: number;
  /** Whether the run of this epoch may still renew and complete. */
  readonly running: boolean;
}

/** The idempotency port on a session. */
export function memoryIdempotency(
  session: Session,
  { rows, clock, ended }: { rows: IdempotencyRows; clock: Clock; ended: Bell },
): IdempotencyKeys {
  function begin(key: string, fingerprint: string, leaseMs: number): IdempotencyState {
    const row = rows.get(key);
    if (row && row.until > clock.monotonic()) {
      if (row.fingerprint !== fingerprint) return { state: "mismatch" };
      return row.result === undefined ? { state: "running" } : { state: "done", result: row.result };
    }
    const epoch = (row?.epoch ?? 0) + 1;
    rows.set(session, key, {
      fingerprint,
      epoch,
      result: undefined,
      until: clock.monotonic() + leaseMs,
      running: true,
    });
    return { state: "started", epoch };
  }

  /** The row, if this run still has the key. A lease that ran out holds until somebody else takes over. */
  function held(key: string, epoch: number): KeyRow | undefined {
    const row = rows.get(key);
    return row?.running && row.epoch === epoch ? row : undefined;
  }

  return {
    async begin(key, fingerprint, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await session.run(() => begin(key, fingerprint, leaseMs));
    },
    async renew(key, epoch, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await session.run(() => {
        const row = held(key, epoch);
        if (row) rows.set(session, key, { ...row, until: clock.monotonic() + leaseMs });
        return row !== undefined;
      });
    },
    complete: (key, epoch, result, ttlMs) =>
      session.run(() => {
        const row = held(key, epoch);
        if (!row) throw lost(key, epoch);
        rows.set(session, key, { ...row, result, until: clock.monotonic() + ttlMs, running: false });
        session.onCommit(() => ended.ring(key));
      }),
    abandon: (key, epoch) =>
      session.run(() => {
        const row = held(key, epoch);
        if (row) rows.set(session, key, { ...row, until: 0, running: false });
        session.onCommit(() => ended.ring(key));
      }),
    async changed(key, { waitMs, signal }) {
      const row = rows.get(key);
      if (row?.running) {
        await ended.wait(key, Math.min(waitMs, Math.max(0, row.until - clock.monotonic())), signal);
      }
    },
  };
}

function lost(key: string, epoch: number): MillstreamError {
  return new MillstreamError(
    "LEASE_LOST",
    `Cannot complete idempotency key ${describe(key)}: another caller took over from epoch ${epoch}`,
    { details: { epoch } },
  );
}
