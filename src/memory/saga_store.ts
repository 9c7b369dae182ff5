/**
 * Sagas in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { stringifyStrict } from "../core/json.ts";
import type { ClaimedSaga, SagaInstance, SagaStore } from "../ports/saga_store.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** Instances by id. */
export type SagaRows = Table<SagaRow>;

interface SagaRow {
  /** The instance as JSON: what a caller does to its copy afterwards changes nothing here. */
  readonly text: string;
  readonly saga: string;
  readonly dueAt: number;
  readonly open: boolean;
  readonly epoch: number;
  /** Who holds it, and until when (monotonic). */
  readonly owner: string | undefined;
  readonly until: number;
}

/** The saga port on a session. */
export function memorySagaStore(
  session: Session,
  { rows, clock }: { rows: SagaRows; clock: Clock },
): SagaStore {
  function isFree(row: SagaRow): boolean {
    return row.owner === undefined || row.until <= clock.monotonic();
  }

  /** The row, if the claim still holds. A claim that ran out holds until somebody else takes over. */
  function held({ instance, owner, epoch }: ClaimedSaga): SagaRow | undefined {
    const row = rows.get(instance.id);
    return row?.owner === owner && row.epoch === epoch ? row : undefined;
  }

  function claim(row: SagaRow, id: string, owner: string, leaseMs: number): ClaimedSaga {
    const epoch = row.epoch + 1;
    rows.set(session, id, { ...row, owner, epoch, until: clock.monotonic() + leaseMs });
    return { instance: JSON.parse(row.text) as SagaInstance, owner, epoch };
  }

  return {
    async create(instance) {
      const facts = factsOf(instance);
      return await session.run(() => {
        if (rows.get(instance.id)) return false;
        rows.set(session, instance.id, { ...facts, epoch: 0, owner: undefined, until: 0 });
        return true;
      });
    },
    load: (id) =>
      session.run(() => {
        const row = rows.get(id);
        return row && JSON.parse(row.text) as SagaInstance;
      }),
    async claim(sagas, owner, leaseMs, limit) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      checkRange("limit", limit, 1, 1_000_000, true);
      return await session.run(() => {
        const now = clock.now();
        const due = [...rows.rows()].filter(([, row]) =>
          row.open && row.dueAt <= now && sagas.includes(row.saga) && isFree(row)
        );
        due.sort(([, a], [, b]) => a.dueAt - b.dueAt);
        return due.slice(0, limit).map(([id, row]) => claim(row, id, owner, leaseMs));
      });
    },
    async renew(claimed, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await session.run(() => {
        const row = held(claimed);
        if (row) rows.set(session, claimed.instance.id, { ...row, until: clock.monotonic() + leaseMs });
        return row !== undefined;
      });
    },
    async save(claimed, instance, release) {
      const facts = factsOf(instance);
      await session.run(() => {
        const row = held(claimed);
        if (!row) throw lost(claimed);
        const owner = release ? undefined : claimed.owner;
        rows.set(session, claimed.instance.id, { ...row, ...facts, owner });
      });
    },
    async list({ saga, status, limit, after }) {
      checkRange("limit", limit, 1, 1_000_000, true);
      return await session.run(() => {
        const ids = [...rows.rows()].map(([id]) => id).filter((id) => after === undefined || id > after)
          .sort();
        const found: SagaInstance[] = [];
        for (const id of ids) {
          if (found.length >= limit) break;
          const instance = JSON.parse(rows.get(id)!.text) as SagaInstance;
          const matches = (saga === undefined || instance.saga === saga) &&
            (status === undefined || instance.status === status);
          if (matches) found.push(instance);
        }
        return found;
      });
    },
  };
}

function factsOf(instance: SagaInstance): Pick<SagaRow, "text" | "saga" | "dueAt" | "open"> {
  const open = instance.status === "running" || instance.status === "compensating";
  return { text: stringifyStrict(instance), saga: instance.saga, dueAt: instance.dueAt, open };
}

function lost({ instance, epoch }: ClaimedSaga): MillstreamError {
  return new MillstreamError(
    "LEASE_LOST",
    `Cannot save saga "${instance.id}": another worker took over, or the claim of epoch ${epoch} was given up`,
    { details: { id: instance.id, epoch } },
  );
}
