/**
 * Sagas in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { stringifyStrict } from "../core/json.ts";
import {
  type ClaimedSaga,
  isFinal,
  type SagaFilter,
  type SagaInstance,
  type SagaSave,
  type SagaStore,
} from "../ports/saga_store.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** Instances by id. */
export type SagaRows = Table<SagaRow>;

/** What was left for instances, by id. */
export type SignalRows = Table<ReadonlyMap<string, string>>;

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
  { rows, signals, clock }: { rows: SagaRows; signals: SignalRows; clock: Clock },
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

  function saveOne({ claimed, release, seen }: SagaSave, facts: Facts): boolean {
    const { id } = claimed.instance;
    const row = held(claimed);
    if (!row) return false;
    const owner = release ? undefined : claimed.owner;
    const signalled = release && seen !== undefined && (signals.get(id)?.size ?? 0) > seen;
    rows.set(session, id, { ...row, ...facts, ...(signalled ? { dueAt: 0 } : {}), owner });
    return true;
  }

  return {
    async create(instances, holder) {
      const facts = instances.map(factsOf);
      const lease = holder
        ? { epoch: 1, owner: holder.owner, until: clock.monotonic() + holder.leaseMs }
        : { epoch: 0, owner: undefined, until: 0 };
      return await session.run(() =>
        instances.map(({ id }, index) => {
          if (rows.get(id)) return false;
          rows.set(session, id, { ...facts[index]!, ...lease });
          return true;
        })
      );
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
    async take(id, owner, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await session.run(() => {
        const row = rows.get(id);
        return row && isFree(row) ? claim(row, id, owner, leaseMs) : undefined;
      });
    },
    async renew(claims, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await session.run(() =>
        claims.map((claimed) => {
          const row = held(claimed);
          if (row) rows.set(session, claimed.instance.id, { ...row, until: clock.monotonic() + leaseMs });
          return row !== undefined;
        })
      );
    },
    async save(saves) {
      const facts = saves.map(({ instance }) => factsOf(instance));
      return await session.run(() => saves.map((save, index) => saveOne(save, facts[index]!)));
    },
    signal: (id, name, text) =>
      session.run(() => {
        const known = signals.get(id);
        if (known?.has(name)) return;
        signals.set(session, id, new Map([...known ?? [], [name, text]]));
        const row = rows.get(id);
        if (row) rows.set(session, id, { ...row, dueAt: Math.min(row.dueAt, clock.now()) });
      }),
    signals: (id) =>
      session.run(() => {
        const byName = signals.get(id) ?? new Map<string, string>();
        return { seen: byName.size, byName };
      }),
    async list(filter) {
      const { limit, after } = filter;
      checkRange("limit", limit, 1, 1_000_000, true);
      return await session.run(() => {
        const ids = [...rows.rows()].map(([id]) => id).filter((id) => after === undefined || id > after)
          .sort();
        const found: SagaInstance[] = [];
        for (const id of ids) {
          if (found.length >= limit) break;
          const instance = JSON.parse(rows.get(id)!.text) as SagaInstance;
          if (matches(instance, filter)) found.push(instance);
        }
        return found;
      });
    },
  };
}

function matches(instance: SagaInstance, { saga, status, startedBefore, overdueAt }: SagaFilter): boolean {
  const { deadlineAt } = instance;
  return (saga === undefined || instance.saga === saga) &&
    (status === undefined || instance.status === status) &&
    (startedBefore === undefined || instance.startedAt < startedBefore) &&
    (overdueAt === undefined ||
      (deadlineAt !== undefined && deadlineAt < overdueAt && !isFinal(instance.status)));
}

type Facts = Pick<SagaRow, "text" | "saga" | "dueAt" | "open">;

function factsOf(instance: SagaInstance): Facts {
  const { saga, dueAt, status } = instance;
  return { text: stringifyStrict(instance), saga, dueAt, open: !isFinal(status) };
}
