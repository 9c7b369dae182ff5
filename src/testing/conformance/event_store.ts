/**
 * The conformance suite of the event store port.
 *
 * @module
 */
import { appendTests } from "./event_store/append.ts";
import { conditionTests } from "./event_store/conditions.ts";
import { lifecycleTests } from "./event_store/lifecycle.ts";
import { readAllTests } from "./event_store/read_all.ts";
import { streamTests } from "./event_store/streams.ts";
import { transactionTests } from "./event_store/transactions.ts";
import { type StoreConformanceOptions, storeSuite } from "./store_world.ts";

/**
 * Registers the tests of a store's {@linkcode EventStore}: versions, expected versions and races, idempotent appends,
 * reads of streams and of the whole store, transactions and the outbox, decisions that cross
 * streams, deletion and archive.
 *
 * Await it at the top level of the test file: it makes one store first, to ask for its name.
 *
 * @example
 * ```ts ignore
 * import { test } from "node:test";
 * import { eventStoreConformance } from "millstream/testing";
 *
 * await eventStoreConformance({
 *   test,
 *   async create() {
 *     const store = myStore({ url });
 *     return { store, dispose: () => store[Symbol.asyncDispose]() };
 *   },
 * });
 * ```
 */
export async function eventStoreConformance(options: StoreConformanceOptions): Promise<void> {
  const suite = await storeSuite(options);
  appendTests(suite);
  streamTests(suite);
  readAllTests(suite);
  transactionTests(suite);
  conditionTests(suite);
  lifecycleTests(suite);
}
