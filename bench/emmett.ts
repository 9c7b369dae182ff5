/**
 * Emmett's consumer on Postgres, catching up with its own store. Its tables have fixed names, so it gets a database of
 * its own.
 *
 * @module
 */
import type postgresJs from "postgres";
import { type Contender, timed, verify } from "./harness.ts";
import { peer } from "./peers.ts";

/** Emmett as a contender. */
export interface EmmettBench {
  readonly contender: Contender;
  /** Appends this many events. */
  fill(count: number): Promise<void>;
  dispose(): Promise<void>;
}

/** What is used of the package. */
interface EmmettPostgres {
  getPostgreSQLEventStore(url: string): {
    appendToStream(stream: string, events: readonly object[]): Promise<unknown>;
    close(): Promise<void>;
  };
  postgreSQLEventStoreConsumer(options: object): {
    reactor(options: {
      readonly processorId: string;
      readonly stopAfter: (message: object) => boolean;
      readonly eachMessage: (message: { readonly data: { readonly amount: number } }) => void;
    }): unknown;
    start(): Promise<void>;
    close(): Promise<void>;
  };
}

/** The batch size at which it is fastest. */
const BATCH = 10_000;

/** Creates the database. The reactor only adds up in memory, which is less than a projection does. */
export async function prepareEmmett(
  sql: postgresJs.Sql,
  url: string,
  database: string,
): Promise<EmmettBench> {
  await sql.unsafe(`create database ${database}`);
  const own = new URL(url);
  own.pathname = `/${database}`;
  const { getPostgreSQLEventStore, postgreSQLEventStoreConsumer } = await peer<EmmettPostgres>(
    "@event-driven-io/emmett-postgresql",
  );
  const store = getPostgreSQLEventStore(own.href);
  let count = 0;

  return {
    contender: {
      name: `emmett: reactor, ${BATCH} events per batch`,
      async run() {
        let handled = 0;
        const consumer = postgreSQLEventStoreConsumer({
          connectionString: own.href,
          pulling: { batchSize: BATCH, pullingFrequencyInMs: 1 },
        });
        consumer.reactor({
          processorId: `sums-${crypto.randomUUID()}`,
          stopAfter: () => handled >= count,
          eachMessage: ({ data }) => void (handled += data.amount),
        });
        const measured = await timed(count, () => consumer.start());
        await consumer.close();
        verify("events handled", handled, count);
        return measured;
      },
    },
    async fill(events) {
      count = events;
      for (let from = 0; from < events; from += 500) {
        const batch = Array.from({ length: Math.min(500, events - from) }, (_, n) => ({
          type: "payment.made",
          data: { account: `account-${(from + n) % 1_000}`, amount: 1 },
        }));
        await store.appendToStream(`payments-${from}`, batch);
      }
    },
    async dispose() {
      await store.close();
      await sql.unsafe(`drop database if exists ${database} with (force)`);
    },
  };
}
