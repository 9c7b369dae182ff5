/**
 * The conformance suite of the store: outbox, inbox, checkpoints, leases, projections, snapshots,
 * sagas, idempotency keys, transactions.
 *
 * @module
 */
import { checkpointTests } from "./store/checkpoints.ts";
import { idempotencyTests, idempotencyTransactionTests } from "./store/idempotency.ts";
import { inboxTests } from "./store/inbox.ts";
import { leaseTests } from "./store/leases.ts";
import { outboxTests } from "./store/outbox.ts";
import { projectionTests } from "./store/projections.ts";
import { sagaTests } from "./store/sagas.ts";
import { snapshotTests } from "./store/snapshots.ts";
import { transactionTests } from "./store/transactions.ts";
import { type StoreConformanceOptions, storeSuite } from "./store_world.ts";

/**
 * Registers the tests of everything in a store but its events and its broker, which have suites of their own.
 *
 * Await it at the top level of the test file: it makes one store first, to ask for its name.
 *
 * @example
 * ```ts ignore
 * import { test } from "node:test";
 * import { storeConformance } from "millstream/testing";
 *
 * await storeConformance({
 *   test,
 *   async create() {
 *     const store = myStore({ url });
 *     return { store, dispose: () => store[Symbol.asyncDispose]() };
 *   },
 * });
 * ```
 */
export async function storeConformance(options: StoreConformanceOptions): Promise<void> {
  const suite = await storeSuite(options);
  transactionTests(suite);
  outboxTests(suite);
  inboxTests(suite);
  checkpointTests(suite);
  leaseTests(suite);
  projectionTests(suite);
  snapshotTests(suite);
  sagaTests(suite);
  idempotencyTests(suite);
  idempotencyTransactionTests(suite);
}
