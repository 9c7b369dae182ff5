/**
 * Millstream on Postgres: the event store, the outbox and everything else whose writes commit together, and a broker
 * for those who have Postgres only. Needs Postgres 14 or later, or PGlite.
 *
 * ```ts
 * import { postgres } from "millstream/postgres";
 *
 * const store = postgres({ url: "postgres://localhost/app" });
 * await store.start();
 * ```
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { SqlDriver } from "../ports/sql.ts";
import { pgDriver, type PgOptions } from "./drivers/pg.ts";
import { pgliteDriver, type PGliteOptions } from "./drivers/pglite.ts";
import { postgresJsDriver, type PostgresJsOptions } from "./drivers/postgres_js.ts";
import { type PostgresStore, postgresStore, type StoreOptions } from "./store.ts";

export type { DriverLimits } from "./drivers/driver.ts";
export {
  type PgClient,
  pgDriver,
  type PgOptions,
  type PgPool,
  type PgQuery,
  type PgResult,
} from "./drivers/pg.ts";
export {
  type PGliteClient,
  pgliteDriver,
  type PGliteOptions,
  type PGliteQueryOptions,
  type PGliteResult,
  type PGliteSession,
} from "./drivers/pglite.ts";
export { postgresJsDriver, type PostgresJsOptions } from "./drivers/postgres_js.ts";
export type { WatermarkBlocker, WatermarkStatus } from "./events/status.ts";
export type { Pruned } from "./maintenance.ts";
export { migrations } from "./migrate.ts";
export type { CallersSession, PostgresStore, StoreOptions } from "./store.ts";
export { sqlTag } from "./tag.ts";

/**
 * Options of {@linkcode postgres}: where the database is, and what every store has. One of
 *
 * - `url`, and further options of {@linkcode postgresJsDriver};
 * - `pool`, a pool of `pg`, which stays the caller's;
 * - `pglite`, an instance of PGlite, which stays the caller's;
 * - `driver`, any {@linkcode SqlDriver}, which is closed with the store.
 */
export type PostgresOptions =
  & StoreOptions
  & (PostgresJsOptions | PgOptions | PGliteOptions | { readonly driver: SqlDriver });

/**
 * A store on Postgres. Nothing is connected before it is used.
 *
 * - Each call is one statement and one round trip; what is written is as durable as the server's own commits.
 * - A transaction is READ COMMITTED; appends, leases and inbox make their own exclusions in it.
 * - The broker hands out the messages of one key in order, one at a time in each group.
 * - Works behind a pooler in transaction mode (with `prepare: false`), not on a read-only replica.
 *
 * @throws `INVALID_ARGUMENT` for options out of range.
 */
export function postgres(options: PostgresOptions): PostgresStore {
  return postgresStore(driverFor(options), options);
}

function driverFor(options: PostgresOptions): SqlDriver {
  if ("driver" in options) return options.driver;
  if ("pool" in options) return pgDriver(options);
  if ("pglite" in options) return pgliteDriver(options);
  if ("url" in options) return postgresJsDriver(options);
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use Postgres: expected option "url", "pool", "pglite" or "driver"`,
  );
}
