/**
 * Every driver on a server, for tests that hold them against the same promises.
 *
 * @module
 */
import process from "node:process";
import type { SqlDriver } from "../../../src/ports/sql.ts";
import { pgDriver, type PgPool } from "../../../src/postgres/drivers/pg.ts";
import { postgresJsDriver } from "../../../src/postgres/drivers/postgres_js.ts";

/** How many connections and how much time a driver under test has. */
export interface DriverSetup {
  readonly url: string;
  /** Connections for single statements, and as many for transactions. @default 4 */
  readonly connections?: number;
  readonly timeoutMs: number;
  readonly connectTimeoutMs?: number;
  /** Name of its connections in `pg_stat_activity`. @default "drivers" */
  readonly applicationName?: string;
}

/** One kind of driver. */
export interface DriverKind {
  readonly name: string;
  create(setup: DriverSetup): TestDriver;
}

/** A driver and what has to be closed with it. */
export interface TestDriver {
  readonly driver: SqlDriver;
  close(): Promise<void>;
}

/** The drivers that connect to a server. */
export const DRIVERS: readonly DriverKind[] = [
  { name: "postgres", create: (setup) => onPostgresJs(setup, true) },
  {
    name: "postgres without prepared statements",
    create: (setup) => onPostgresJs(setup, false),
  },
  { name: "pg", create: onPg },
];

function onPostgresJs(setup: DriverSetup, prepare: boolean): TestDriver {
  const {
    url,
    connections = 4,
    timeoutMs,
    connectTimeoutMs = 10_000,
    applicationName = "drivers",
  } = setup;
  const driver = postgresJsDriver({
    url,
    prepare,
    max: connections,
    transactions: connections,
    timeoutMs,
    connectTimeoutMs,
    applicationName,
  });
  return { driver, close: async () => await driver[Symbol.asyncDispose]() };
}

interface EndablePool extends PgPool {
  end(): Promise<void>;
}

// It has no types of its own.
const { Pool } = (await import("pg" as string)).default as {
  Pool: new (options: object) => EndablePool;
};

function onPg(
  {
    url,
    connections = 4,
    timeoutMs,
    connectTimeoutMs = 10_000,
    applicationName = "drivers",
  }: DriverSetup,
): TestDriver {
  const pool = new Pool({
    connectionString: url,
    max: connections,
    connectionTimeoutMillis: connectTimeoutMs,
    application_name: applicationName,
  });
  const driver = pgDriver({ pool, timeoutMs });
  return {
    driver,
    async close() {
      await driver[Symbol.asyncDispose]();
      await pool.end();
    },
  };
}

/** The same address behind a proxy on loopback. */
export function behind(url: string, port: number): string {
  const address = new URL(url);
  address.hostname = "127.0.0.1";
  address.port = String(port);
  return address.href;
}

/** Host and port of a server. */
export function addressOf(
  url: string,
): { readonly host: string; readonly port: number } {
  const { hostname, port } = new URL(url);
  return { host: hostname, port: Number(port || 5432) };
}

/** What no promise told: a driver must never let an error escape to where nobody can catch it. */
export function collectStrayErrors(): {
  readonly errors: unknown[];
  stop(): void;
} {
  const errors: unknown[] = [];
  const note = (error: unknown): void => void errors.push(error);
  process.on("uncaughtException", note);
  process.on("unhandledRejection", note);
  return {
    errors,
    stop() {
      process.removeListener("uncaughtException", note);
      process.removeListener("unhandledRejection", note);
    },
  };
}

/** A name that no other test file uses at the same time. */
export function uniqueName(what: string): string {
  return `${what}_${process.pid}_${Math.random().toString(36).slice(2, 8)}`;
}
