/**
 * What a test needs from outside, and one uniform way to go without.
 *
 * ```ts
 * const redis = service("redis");
 * test("keeps the order", { skip: redis.skip }, async () => { ... redis.url ... });
 * ```
 *
 * @module
 */
import { appendFileSync } from "node:fs";
import process from "node:process";
import { natsBinary, rabbitmqBinary } from "./brokers.ts";
import { elasticmqLibs, kafkaLibs } from "./java_brokers.ts";
import { pgbouncerBinary, postgres18Binaries, postgresBinaries, redisBinary } from "./servers.ts";

/**
 * A running server that tests share (`redis`), or a binary to start private ones for tests that stop and kill theirs
 * (`redis-server`).
 */
export type ServiceName = keyof typeof SOURCES;

/** A service, or the reason why there is none. */
export interface Service {
  /** Address of the server, or path of the binary. Empty if there is none. */
  readonly url: string;
  /** For the `skip` option of a test: `false` if the service is there. */
  readonly skip: string | false;
}

/** Where each service is named in the environment. */
const SOURCES = {
  "redis": () => process.env.REDIS_URL,
  "postgres": () => process.env.DATABASE_URL,
  "rabbitmq": () => process.env.RABBITMQ_URL,
  "nats": () => process.env.NATS_URL,
  "kafka": () => process.env.KAFKA_URL,
  "sqs": () => process.env.SQS_URL,
  "redis-server": redisBinary,
  "postgres-server": postgresBinaries,
  "postgres-18": postgres18Binaries,
  "pgbouncer": pgbouncerBinary,
  "rabbitmq-server": rabbitmqBinary,
  "nats-server": natsBinary,
  "kafka-server": kafkaLibs,
  "elasticmq": elasticmqLibs,
};

/** Looks a service up, and notes for the report of the run that tests will be skipped if there is none. */
export function service(name: ServiceName): Service {
  const url = SOURCES[name]();
  if (url) return { url, skip: false };
  const reasons = JSON.parse(process.env.MILLSTREAM_MISSING ?? "{}") as Record<
    string,
    string
  >;
  const skip = `no ${name}: ${reasons[name] ?? "not in the environment"}`;
  note(skip);
  return { url: "", skip };
}

/** A reason to skip that is no service, such as a runtime that lacks a feature. `false` if `met`. */
export function needs(what: string, met: boolean): string | false {
  if (met) return false;
  note(what);
  return what;
}

/** Not every runtime writes the reason of a skipped test into its report. */
function note(reason: string): void {
  const file = process.env.MILLSTREAM_SKIPS;
  if (file) appendFileSync(file, `${reason}\n`);
}
