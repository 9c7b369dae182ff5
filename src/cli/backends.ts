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
 * `DATABASE_URL` is Postgres, and without it PGlite keeps everything in `DATA_DIR` (`.millstream`). `BROKER_URL` says by
 * its scheme which broker carries the messages, `REDIS_URL` is the same for Redis Streams, and without both the store
 * does.
 */
export async function backends(): Promise<Backends> {
  const { DATABASE_URL, BROKER_URL, REDIS_URL } = process.env;
  const url = BROKER_URL || REDIS_URL;
  const { broker, name: carried } = url ? await brokerAt(url) : OWN;
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

interface Carrier {
  readonly broker: Broker | undefined;
  readonly name: string;
}

const OWN: Carrier = { broker: undefined, name: "the store's own broker" };

/** The broker at an address. Only its own adapter is loaded. */
async function brokerAt(url: string): Promise<Carrier> {
  const scheme = url.slice(0, Math.max(0, url.indexOf(":")));
  switch (scheme) {
    case "redis":
    case "rediss":
      return { broker: redis({ url }), name: "Redis Streams" };
    case "amqp":
    case "amqps": {
      const { rabbitmq } = await import("../../adapters/rabbitmq/mod.ts");
      return { broker: rabbitmq({ url }), name: "RabbitMQ" };
    }
    case "nats":
    case "tls": {
      const { nats } = await import("../../adapters/nats/mod.ts");
      return { broker: nats({ url }), name: "NATS JetStream" };
    }
    case "kafka":
    case "kafkas": {
      const { kafka } = await import("../../adapters/kafka/mod.ts");
      return { broker: kafka({ url }), name: "Kafka" };
    }
    case "sqs": {
      const { sqs } = await import("../../adapters/sqs/mod.ts");
      const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = process.env;
      const { AWS_SESSION_TOKEN: sessionToken, AWS_REGION: region } = process.env;
      const named = { ...(sessionToken ? { sessionToken } : {}) };
      const caller = accessKeyId && secretAccessKey
        ? { credentials: { accessKeyId, secretAccessKey, ...named } }
        : {};
      return { broker: sqs({ url, ...caller, ...(region ? { region } : {}) }), name: "SQS" };
    }
  }
  // Without the address, which may have a password in it.
  throw new Error(
    `Cannot use BROKER_URL with scheme "${scheme}": expected redis://, amqp://, nats://, kafka:// or sqs://`,
  );
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
