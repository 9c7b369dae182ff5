/**
 * Which store and broker the environment asks for.
 *
 * @module
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import process from "node:process";
import type { Broker, Store } from "../../mod.ts";
import { postgres } from "../postgres/mod.ts";
import { redis } from "../redis/mod.ts";
import { lockFolder } from "./lock.ts";

/** Store, broker, and a line that says what they are. */
export interface Backends {
  readonly store: Store;
  /** The store's own if there is none. */
  readonly broker: Broker | undefined;
  readonly description: string;
  /** Closes what the store does not close itself. */
  readonly close: () => Promise<void>;
}

/**
 * `DATABASE_URL` is Postgres, and without it PGlite keeps everything in `DATA_DIR` (`.millstream`). `REDIS_URL` is Redis
 * Streams, and without it the store carries the messages.
 */
export async function backends(): Promise<Backends> {
  const { DATABASE_URL, REDIS_URL } = process.env;
  const broker = REDIS_URL ? redis({ url: REDIS_URL }) : undefined;
  const carried = broker ? "Redis Streams" : "the store's own broker";
  if (DATABASE_URL) {
    return {
      store: postgres({ url: DATABASE_URL }),
      broker,
      description: `Postgres and ${carried}`,
      close: () => Promise.resolve(),
    };
  }
  const { PGlite } = await loadPGlite();
  const folder = process.env.DATA_DIR || ".millstream";
  const directory = join(folder, "pglite");
  await mkdir(directory, { recursive: true });
  const unlock = await lockFolder(folder);
  const pglite = await PGlite.create(directory);
  return {
    store: postgres({ pglite }),
    broker,
    description: `PGlite in ${directory} and ${carried}`,
    async close() {
      await pglite.close();
      await unlock();
    },
  };
}

async function loadPGlite(): Promise<typeof import("@electric-sql/pglite")> {
  try {
    return await import("@electric-sql/pglite");
  } catch (cause) {
    throw new Error(
      "Cannot run embedded: install @electric-sql/pglite, or set DATABASE_URL to a Postgres server",
      { cause },
    );
  }
}
