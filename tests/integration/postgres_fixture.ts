/** Stores on a schema of their own, by each driver. */
import { PGlite } from "@electric-sql/pglite";
import { randomUUID } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import type { EventToAppend } from "../../src/ports/event_store.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { SqlDriver, SqlSession } from "../../src/ports/sql.ts";
import {
  pgDriver,
  type PgOptions,
  postgres,
  postgresJsDriver,
  type PostgresStore,
  type StoreOptions,
} from "../../src/postgres/mod.ts";
import { type Service, service } from "../support/require.ts";
import { startPostgres } from "../support/servers.ts";

/** The shared server. */
export const server = service("postgres");

/** A schema that nobody else uses. */
export function uniqueSchema(prefix: string): string {
  return `${prefix}_${randomUUID().slice(0, 8)}`;
}

/** A driver of few connections on the shared server, or on another one. */
export function openDriver(url: string = server.url): SqlDriver {
  return postgresJsDriver({ url, max: 3, transactions: 2 });
}

/** A PGlite in a folder. */
export function openPGlite(folder: string): Promise<PGlite> {
  return PGlite.create({ dataDir: folder });
}

/** Removes a schema from the shared server. */
export async function dropSchema(schema: string): Promise<void> {
  const driver = openDriver();
  await driver.script(
    `set client_min_messages = warning; drop schema if exists ${schema} cascade`,
  );
  await driver[Symbol.asyncDispose]();
}

/** One way to open stores. */
export interface StoreOpener {
  readonly name: "postgres" | "pg" | "pglite" | "postgres 18";
  readonly skip: string | false;
  /** A started store on the schema, as a process of its own would have it (PGlite: on the same instance). */
  open(schema: string, options?: StoreOptions): Promise<PostgresStore>;
  /** Stops the database without warning and starts it again, where it belongs to this test file. */
  restart?(): Promise<void>;
  /** Removes the schema. */
  drop(schema: string): Promise<void>;
  /** After the last test. */
  end(): Promise<void>;
}

/** Stores by all drivers. */
export const openers = {
  postgres: postgresJsOpener(),
  pg: pgOpener(),
  pglite: pgliteOpener(),
};

/** Stores on a private server that can be killed; of the binaries in a folder, or of those of this machine. */
export async function privateOpener(
  { url: bin, skip }: Service = service("postgres-server"),
  name: StoreOpener["name"] = "postgres",
): Promise<StoreOpener> {
  const own = skip ? undefined : await startPostgres({ bin });
  return {
    name,
    skip,
    open: (schema, options) => started(postgres({ ...options, url: own?.url ?? "", schema })),
    async restart() {
      await own?.kill9();
      await own?.restart();
    },
    drop: () => Promise.resolve(),
    end: async () => await own?.stop(),
  };
}

function postgresJsOpener(): StoreOpener {
  return {
    name: "postgres",
    skip: server.skip,
    open: (schema, options) => started(postgres({ ...options, driver: openDriver(), schema })),
    drop: dropSchema,
    end: () => Promise.resolve(),
  };
}

function pgOpener(): StoreOpener {
  let pool: Promise<Pool> | undefined;
  return {
    name: "pg",
    skip: server.skip,
    async open(schema, options) {
      pool ??= createPool();
      return await started(
        postgres({
          ...options,
          driver: pgDriver({ pool: await pool }),
          schema,
        }),
      );
    },
    drop: dropSchema,
    end: async () => await (await pool)?.end(),
  };
}

type Pool = PgOptions["pool"] & { end(): Promise<void> };

/** The package comes without types. */
async function createPool(): Promise<Pool> {
  const name = "pg";
  const { default: pg } = await import(name) as {
    default: { Pool: new (options: object) => Pool };
  };
  return new pg.Pool({
    connectionString: server.url,
    max: 8,
    connectionTimeoutMillis: 5_000,
  });
}

/** One instance on disk for all stores of a test file: it takes seconds to come up. */
function pgliteOpener(): StoreOpener {
  let folder = "";
  let instance: Promise<PGlite> | undefined;
  return {
    name: "pglite",
    skip: false,
    async open(schema, options) {
      folder ||= mkdtempSync(join(tmpdir(), "millstream-"));
      instance ??= openPGlite(folder);
      return await started(
        postgres({ ...options, pglite: await instance, schema }),
      );
    },
    async restart() {
      await (await instance)?.close();
      instance = undefined;
    },
    drop: async (schema) =>
      void await (await instance)?.exec(
        `drop schema if exists ${schema} cascade`,
      ),
    async end() {
      await (await instance)?.close();
      if (folder) rmSync(folder, { recursive: true, force: true });
    },
  };
}

async function started(store: PostgresStore): Promise<PostgresStore> {
  await store.start();
  return store;
}

let count = 0;
const run = randomUUID().slice(0, 8);

/** Events with ids of their own. */
export function events(number: number): readonly EventToAppend[] {
  return messages(number);
}

/** Messages with ids of their own. */
export function messages(
  number: number,
  { key }: { readonly key?: string } = {},
): readonly EncodedMessage[] {
  return Array.from({ length: number }, () => {
    const message = {
      id: `m-${run}-${process.pid}-${count++}`,
      type: "happened",
      body: "{}",
    };
    return key === undefined ? message : { ...message, key };
  });
}

/** Runs `work` in a transaction that stays open until `meanwhile` has ended or called the given function. */
export async function hold(
  driver: SqlDriver,
  work: (session: SqlSession) => Promise<void>,
  meanwhile: (commit: () => Promise<void>) => Promise<void>,
): Promise<void> {
  let isReady = (): void => {};
  let mayEnd = (): void => {};
  const ready = new Promise<void>((resolve) => isReady = resolve);
  const end = new Promise<void>((resolve) => mayEnd = resolve);
  const transaction = driver.transaction(async (session) => {
    await work(session);
    isReady();
    await end;
  });
  const commit = async (): Promise<void> => {
    mayEnd();
    await transaction;
  };
  try {
    await Promise.race([ready, transaction]);
    await meanwhile(commit);
  } finally {
    await commit();
  }
}
