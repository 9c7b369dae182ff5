/**
 * Leases in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Lease, Leases } from "../ports/leases.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** Leases by name. A lease that was given up stays, so that its epoch goes on growing. */
export type LeaseRows = Table<
  { readonly owner: string | undefined; readonly epoch: number; readonly until: number }
>;

/** What leases work with. */
export interface LeaseSetting {
  readonly rows: LeaseRows;
  readonly clock: Clock;
}

/** The lease port on a session. */
export function memoryLeases(session: Session, setting: LeaseSetting): Leases {
  const { rows, clock } = setting;

  function hold(lease: Lease, ttlMs: number): Lease {
    const { name, owner, epoch } = lease;
    rows.set(session, name, { owner, epoch, until: clock.monotonic() + ttlMs });
    return lease;
  }

  return {
    async acquire(name, owner, ttlMs) {
      checkRange("ttlMs", ttlMs, 1, 86_400_000);
      return await session.run(() => {
        const row = rows.get(name);
        if (row?.owner === owner) return hold({ name, owner, epoch: row.epoch }, ttlMs);
        if (row?.owner !== undefined && row.until > clock.monotonic()) return undefined;
        return hold({ name, owner, epoch: (row?.epoch ?? 0) + 1 }, ttlMs);
      });
    },
    async renew(lease, ttlMs) {
      checkRange("ttlMs", ttlMs, 1, 86_400_000);
      return await session.run(() => holds(rows, lease) && hold(lease, ttlMs) === lease);
    },
    release: (lease) =>
      session.run(() => {
        if (holds(rows, lease)) {
          rows.set(session, lease.name, { owner: undefined, epoch: lease.epoch, until: 0 });
        }
      }),
    revoke: (name) =>
      session.run(() => {
        const row = rows.get(name);
        if (row) rows.set(session, name, { owner: undefined, epoch: row.epoch, until: 0 });
      }),
    // The transaction has the store for itself, so what holds now holds until it ends.
    assert: (lease) => session.run(() => assertLease(setting, lease)),
  };
}

/** Throws `LEASE_LOST` if somebody else took the lease or it was given up. */
export function assertLease({ rows }: LeaseSetting, lease: Lease): void {
  if (holds(rows, lease)) return;
  const row = rows.get(lease.name);
  throw new MillstreamError(
    "LEASE_LOST",
    `Cannot act as holder of lease "${lease.name}": expected epoch ${lease.epoch}, got ${
      row?.epoch ?? "none"
    }`,
    { details: { name: lease.name, epoch: lease.epoch, current: row?.epoch ?? null } },
  );
}

function holds(rows: LeaseRows, { name, owner, epoch }: Lease): boolean {
  const row = rows.get(name);
  return row?.owner === owner && row.epoch === epoch;
}
