/** The conformance suites, on a schema of its own for each test. */
import { after, test } from "node:test";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { eventStoreConformance } from "../../src/testing/conformance/event_store.ts";
import { storeConformance } from "../../src/testing/conformance/store.ts";
import type { PostgresStore } from "../../src/postgres/mod.ts";
import { type StoreOpener, uniqueSchema } from "./postgres_fixture.ts";

/** Runs the suite of the broker port. */
export async function testBroker(
  { name, skip, open, restart, drop, end }: StoreOpener,
): Promise<void> {
  if (skip) {
    return void test(
      `${name}: the conformance suite of the broker`,
      { skip },
      () => {},
    );
  }
  after(end);
  await brokerConformance({
    test,
    name,
    async create() {
      const schema = uniqueSchema("broker");
      const stores: PostgresStore[] = [];
      async function connect() {
        const store = await open(schema, { retentionMs: 0 });
        stores.push(store);
        return store.broker();
      }
      return {
        broker: await connect(),
        secondConnection: connect,
        trim: async () => void await stores[0]?.prune(),
        ...(restart && {
          async restart() {
            await restart();
            return await connect();
          },
        }),
        async dispose() {
          for (const store of stores) await store[Symbol.asyncDispose]();
          await drop(schema);
        },
      };
    },
  });
}

/** Runs the suites of the event store and of the other ports of a store. */
export async function testStore(
  conformance: typeof eventStoreConformance | typeof storeConformance,
  { name, skip, open, restart, drop, end }: StoreOpener,
): Promise<void> {
  if (skip) {
    return void test(
      `${name}: the conformance suite of the store`,
      { skip },
      () => {},
    );
  }
  after(end);
  await conformance({
    test,
    name,
    async create() {
      const schema = uniqueSchema("store");
      const stores: PostgresStore[] = [];
      async function connect() {
        const store = await open(schema);
        stores.push(store);
        return store;
      }
      return {
        store: await connect(),
        secondConnection: connect,
        async restart() {
          await restart?.();
          return await connect();
        },
        async dispose() {
          for (const store of stores) await store[Symbol.asyncDispose]();
          await drop(schema);
        },
      };
    },
  });
}
