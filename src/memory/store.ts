/**
 * A store in this process's memory: all ports, one session, real transactions.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import { bell } from "./bell.ts";
import { brokerMemory } from "./broker.ts";
import { memoryCheckpoints } from "./checkpoints.ts";
import { eventRows } from "./event_rows.ts";
import { memoryEventStore } from "./event_store.ts";
import { memoryIdempotency } from "./idempotency.ts";
import { memoryInbox } from "./inbox.ts";
import { assertLease, memoryLeases } from "./leases.ts";
import { noSql } from "./no_sql.ts";
import { memoryOutbox, outboxRows } from "./outbox.ts";
import { memoryOutboxDeadLetters } from "./outbox_dead_letters.ts";
import { memoryProjections } from "./projections.ts";
import { memorySagaStore } from "./saga_store.ts";
import { createSessions, type Session } from "./session.ts";
import { memorySnapshots } from "./snapshots.ts";
import { createTable } from "./table.ts";

/** Options of {@linkcode memoryStore}. */
export interface MemoryStoreOptions {
  /** Time for timestamps, leases and waiting. @default the system's clock */
  readonly clock?: Clock;
  /**
   * How long a call waits for the transactions before it, in milliseconds. Then it is refused with
   * `DEADLINE_EXCEEDED`, and nothing was done. @default 10_000
   */
  readonly queueMs?: number;
}

/**
 * Creates a store in memory. It keeps what it has until the process ends or it is disposed.
 *
 * Transactions run one after another, in the order they came, and single calls queue up among them; a failed one is
 * undone step by step. Calling the store itself inside one of its transactions waits for that transaction, and so is
 * refused after `queueMs`. `sql` always rejects with `UNSUPPORTED`.
 */
export function memoryStore(options: MemoryStoreOptions = {}): Store {
  const { clock = systemClock, queueMs = 10_000 } = options;
  checkRange("queueMs", queueMs, 1, 86_400_000);
  const sessions = createSessions(clock, queueMs);
  const brokers = brokerMemory({ clock });
  const appended = bell(clock);
  const ports = portsOver(clock, appended);
  let closed = false;

  return {
    name: "memory",
    ...ports(sessions.outside, true),
    start: () => sessions.outside.run(() => {}),
    ping: () => sessions.outside.run(() => {}),
    transaction: (work) => sessions.transaction((session) => work(ports(session, false))),
    broker: () => brokers.connect(),
    // deno-lint-ignore require-await -- everything happens at once in memory
    async [Symbol.asyncDispose]() {
      if (closed) return;
      closed = true;
      sessions.close();
      brokers.close();
      appended.ringAll(); // reads that wait find out
    },
  };
}

/** Empty tables, and the ports that work on them in a given session. */
function portsOver(
  clock: Clock,
  appended: ReturnType<typeof bell>,
): (session: Session, waits: boolean) => StorePorts {
  const events = eventRows();
  const outbox = outboxRows();
  const inbox = { rows: createTable<{ at: number }>(), clock };
  const checkpoints = createTable<bigint>();
  const leases: Parameters<typeof memoryLeases>[1] = { rows: createTable(), clock };
  const projections: Parameters<typeof memoryProjections>[1] = {
    controls: createTable(),
    parked: createTable(),
  };
  const snapshots: Parameters<typeof memorySnapshots>[1] = { rows: createTable(), clock };
  const sagas: Parameters<typeof memorySagaStore>[1] = { rows: createTable(), signals: createTable(), clock };
  const idempotency: Parameters<typeof memoryIdempotency>[1] = {
    rows: createTable(),
    clock,
    ended: bell(clock),
  };
  return (session, waits) => ({
    events: memoryEventStore(session, { rows: events, outbox, clock, appended, waits }),
    outbox: memoryOutbox(session, {
      rows: outbox,
      clock,
      assertLease: (lease) => assertLease(leases, lease),
    }),
    outboxDeadLetters: memoryOutboxDeadLetters(session, outbox),
    inbox: memoryInbox(session, inbox),
    checkpoints: memoryCheckpoints(session, checkpoints),
    leases: memoryLeases(session, leases),
    projections: memoryProjections(session, projections),
    snapshots: memorySnapshots(session, snapshots),
    sagas: memorySagaStore(session, sagas),
    idempotency: memoryIdempotency(session, idempotency),
    sql: noSql,
  });
}
