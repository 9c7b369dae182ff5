/**
 * The store: every port whose writes may have to commit together, and the transaction that does it.
 *
 * @module
 */
import type { Broker } from "./broker.ts";
import type { Checkpoints } from "./checkpoints.ts";
import type { DeadLetters } from "./dead_letters.ts";
import type { EventStore } from "./event_store.ts";
import type { IdempotencyKeys } from "./idempotency.ts";
import type { Inbox } from "./inbox.ts";
import type { Leases } from "./leases.ts";
import type { Outbox } from "./outbox.ts";
import type { ProjectionStore } from "./projections.ts";
import type { SagaStore } from "./saga_store.ts";
import type { Snapshots } from "./snapshots.ts";
import type { Sql } from "./sql.ts";

/** The ports of a store. The same set exists outside and inside a transaction. */
export interface StorePorts {
  readonly events: EventStore;
  readonly outbox: Outbox;
  /** Messages that the broker refused again and again. Their group is `outbox`; redriven, they are sent again. */
  readonly outboxDeadLetters: DeadLetters;
  readonly inbox: Inbox;
  readonly checkpoints: Checkpoints;
  readonly leases: Leases;
  readonly projections: ProjectionStore;
  readonly snapshots: Snapshots;
  readonly sagas: SagaStore;
  readonly idempotency: IdempotencyKeys;
  /** SQL of the same session. On stores without SQL every call rejects with `UNSUPPORTED`. */
  readonly sql: Sql;
}

/** A store. Outside a transaction each call commits by itself. */
export interface Store extends StorePorts, AsyncDisposable {
  /** Name for messages: `memory`, `postgres`. */
  readonly name: string;

  /** Brings the schema up to date and checks that the store can be used. Safe to call from many processes at once. */
  start(): Promise<void>;

  /**
   * Runs `work` in one transaction: what it writes through the given ports is committed together when it resolves,
   * and not at all when it rejects.
   *
   * Use only the given ports inside; calls on the store itself are not part of the transaction, and on a store with
   * one session (PGlite, memory) they wait for it to end. Do not wait for other systems inside.
   *
   * @throws what `work` threw, after the rollback. `COMMIT_INDETERMINATE` if the reply to the commit was lost.
   * `UNAVAILABLE` or `DEADLINE_EXCEEDED` if the session was lost or too slow: rolled back.
   */
  transaction<T>(work: (ports: StorePorts) => Promise<T>): Promise<T>;

  /** The broker for those who have this store only. */
  broker(): Broker;

  /** Resolves if the store answers now; rejects with `UNAVAILABLE` within a few seconds if not. */
  ping(): Promise<void>;
}
