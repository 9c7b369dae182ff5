/** The conformance suites. Making a schema takes a while on PGlite: all tests of a file have one, one after the other. */
import { after, test } from "node:test";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import type { eventStoreConformance } from "../../src/testing/conformance/event_store.ts";
import type { storeConformance } from "../../src/testing/conformance/store.ts";
import type { TestRunner } from "../../src/testing/runner.ts";
import type { Broker } from "../../src/ports/broker.ts";
import type { PostgresStore } from "../../src/postgres/mod.ts";
import { type StoreOpener, uniqueSchema } from "./postgres_fixture.ts";

/** Runs the suite of the broker port. */
export async function testBroker(
  { name, skip, open, restart, drop, end }: StoreOpener,
  register: TestRunner = test,
): Promise<void> {
  if (skip) return void test(`${name}: the conformance suite of the broker`, { skip }, () => {});
  const schema = uniqueSchema("broker");
  after(async () => {
    await drop(schema);
    await end();
  });
  await brokerConformance({
    test: register,
    name,
    async create() {
      const stores: PostgresStore[] = [];
      async function connect(): Promise<Broker> {
        const store = await open(schema);
        stores.push(store);
        return store.broker();
      }
      return {
        broker: await connect(),
        secondConnection: connect,
        async trim() {
          const store = await open(schema, { retentionMs: 0 });
          while ((await store.prune()).messages > 0);
          await store[Symbol.asyncDispose]();
        },
        ...(restart && {
          async restart() {
            await restart();
            return await connect();
          },
        }),
        async dispose() {
          for (const store of stores) await store[Symbol.asyncDispose]();
        },
      };
    },
  });
}

/** Runs the suites of the event store and of the other ports of a store. */
export async function testStore(
  conformance: typeof eventStoreConformance | typeof storeConformance,
  { name, skip, open, restart, drop, end }: StoreOpener,
  register: TestRunner = test,
): Promise<void> {
  if (skip) {
    return void test(
      `${name}: the conformance suite of the store`,
      { skip },
      () => {},
    );
  }
  const schema = uniqueSchema("store");
  after(async () => {
    await drop(schema);
    await end();
  });
  await conformance({
    test: register,
    name,
    async create() {
      const stores: PostgresStore[] = [];
      async function connect(): Promise<PostgresStore> {
        const store = await open(schema);
        stores.push(store);
        return store;
      }
      const store = await connect();
      await empty(store, schema);
      return {
        store,
        secondConnection: connect,
        async restart() {
          await restart?.();
          return await connect();
        },
        async dispose() {
          for (const opened of stores) await opened[Symbol.asyncDispose]();
        },
      };
    },
  });
}

/** As after the migrations: what other tests wrote is gone. */
async function empty({ sql }: PostgresStore, schema: string): Promise<void> {
  const tables = await sql<{ name: string }>`select format('%I.%I', schemaname, tablename) as name
    from pg_tables where schemaname = ${schema} and tablename <> 'migrations'`;
  for (const { name } of tables) await sql`delete from ${sql(name)}`;
}
