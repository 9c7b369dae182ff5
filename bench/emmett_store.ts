/**
 * Emmett's event store on Postgres, as it is used in a database of its own.
 *
 * @module
 */
import postgresJs from "postgres";
import type { EncodedMessage } from "../mod.ts";
import { peer } from "./peers.ts";

/** What is used of `@event-driven-io/emmett-postgresql`. */
interface EmmettStore {
  readonly schema: { migrate(): Promise<unknown> };
  appendToStream(
    stream: string,
    events: ReadonlyArray<{ readonly type: string; readonly data: object }>,
    options: { readonly expectedStreamVersion: bigint | "STREAM_DOES_NOT_EXIST" },
  ): Promise<{ readonly nextExpectedStreamVersion: bigint }>;
  readStream(stream: string): Promise<{ readonly events: readonly unknown[] }>;
  close(): Promise<void>;
}

/** Emmett, with what the benchmarks ask of an event store. */
export interface Emmett extends AsyncDisposable {
  append(stream: string, expected: number, events: readonly EncodedMessage[]): Promise<number>;
  /** Returns how many events there are. */
  read(stream: string): Promise<number>;
}

/** Opens it in a new database of the server at `url`, which is dropped on disposal. Its defaults otherwise. */
export async function openEmmett(url: string): Promise<Emmett> {
  const { getPostgreSQLEventStore } = await peer<{ getPostgreSQLEventStore(url: string): EmmettStore }>(
    "@event-driven-io/emmett-postgresql",
  );
  const database = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const admin = postgresJs(url, { max: 1, onnotice: () => {} });
  await admin.unsafe(`create database ${database}`);
  const own = new URL(url);
  own.pathname = `/${database}`;
  const store = getPostgreSQLEventStore(own.href);
  await store.schema.migrate();
  return {
    async append(stream, expected, events) {
      const result = await store.appendToStream(
        stream,
        events.map(({ type, body }) => ({ type, data: JSON.parse(body) as object })),
        { expectedStreamVersion: expected === 0 ? "STREAM_DOES_NOT_EXIST" : BigInt(expected) },
      );
      return Number(result.nextExpectedStreamVersion);
    },
    read: async (stream) => (await store.readStream(stream)).events.length,
    async [Symbol.asyncDispose]() {
      await store.close();
      await dropUnused(admin, database);
      await admin.end();
    },
  };
}

/** Its connections end a little after it was closed. To end them by force is an error that its client does not catch. */
async function dropUnused(admin: postgresJs.Sql, database: string): Promise<void> {
  for (let attempt = 0; attempt < 100; attempt++) {
    try {
      return void await admin.unsafe(`drop database ${database}`);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}
