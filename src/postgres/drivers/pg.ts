/**
 * The driver on npm `pg` (node-postgres), which the application brings along.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { type Clock, systemClock } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { SqlDriver, SqlRow } from "../../ports/sql.ts";
import { columnParser } from "./columns.ts";
import { type Connection, deadline, type Lender, type Reply } from "./connection.ts";
import { type DriverLimits, lendingDriver } from "./driver.ts";
import { failure, lost } from "./failures.ts";
import type { Encoded } from "./values.ts";

/** What the driver uses of `Pool` of `pg`. */
export interface PgPool {
  connect(callback: (error: Error | undefined, client: PgClient | undefined) => void): void;
  on(event: "error", listener: (error: Error) => void): unknown;
  /** How many callers wait for a client while none is free. */
  readonly waitingCount?: number;
}

/** What the driver uses of `PoolClient` of `pg`. */
export interface PgClient {
  query(query: PgQuery): Promise<PgResult | PgResult[]>;
  release(error?: Error): void;
  on(event: "error" | "end", listener: (error?: Error) => void): unknown;
  removeListener(event: "error" | "end", listener: (error?: Error) => void): unknown;
}

/** A statement for {@linkcode PgClient}. */
export interface PgQuery {
  text: string;
  values?: Array<string | null>;
  queryMode?: string;
  types?: { getTypeParser(oid: number, format?: string): (text: string) => unknown };
}

/** What `pg` answers. */
export interface PgResult {
  readonly rows: readonly unknown[];
  readonly command: string | null;
}

/** Options of {@linkcode pgDriver}. */
export interface PgOptions extends DriverLimits {
  /**
   * The pool: `new Pool({ connectionString, connectionTimeoutMillis: 5_000 })`. Statements and transactions share it,
   * and it stays the caller's, who ends it after the driver was closed. Set `connectionTimeoutMillis`: without it, `pg`
   * waits for ever for a server that accepts a connection and says nothing. Set `statement_timeout` as well if what
   * hits its deadline shall also stop on the server.
   */
  readonly pool: PgPool;
}

/**
 * The driver. It listens to the pool's errors, since one without a listener would end the process, and they mean
 * nothing: the pool has replaced the client by then.
 *
 * @throws `INVALID_ARGUMENT` for options out of range.
 */
export function pgDriver(options: PgOptions): SqlDriver {
  const { pool, timeoutMs = 15_000, scriptTimeoutMs = 120_000, clock = systemClock } = options;
  if (typeof pool?.connect !== "function" || typeof pool.on !== "function") {
    throw new MillstreamError("INVALID_ARGUMENT", `Cannot use option "pool": expected a Pool of pg`);
  }
  checkRange("timeoutMs", timeoutMs, 1, 3_600_000);
  checkRange("scriptTimeoutMs", scriptTimeoutMs, 1, 86_400_000);
  pool.on("error", () => {});

  const lender = pgLender(pool, clock);
  const limits = { timeoutMs, scriptTimeoutMs, clock };
  return lendingDriver({ name: "pg", statements: lender, transactions: lender, limits });
}

function pgLender(pool: PgPool, clock: Clock): Lender {
  const lent = new Map<Connection, () => void>();

  function lend(client: PgClient): Connection {
    const { connection, giveBack } = clientConnection(client, (returned) => lent.delete(returned));
    lent.set(connection, giveBack);
    return connection;
  }

  return {
    acquire: (waitMs) => checkOut(pool, { waitMs, clock, lend }),
    release: (connection) => lent.get(connection)?.(),
    // The pool lets nobody at its idle clients; it ends them itself after `idleTimeoutMillis`.
    suspect: () => {},
    close() {
      for (const connection of lent.keys()) connection.destroy(new Error("The driver was closed"));
    },
  };
}

/** How {@linkcode checkOut} does it. */
interface CheckOut {
  readonly waitMs: number;
  readonly clock: Clock;
  lend(client: PgClient): Connection;
}

/**
 * Takes a client from the pool. One that comes too late goes back.
 *
 * The pool stops listening to a client's errors before it hands it out, and the error may be in the same packet that
 * made the client ready: whoever attaches a listener only when a promise resolves has missed it, and the process ends.
 * So this is a callback.
 */
function checkOut(pool: PgPool, { waitMs, clock, lend }: CheckOut): Promise<Connection> {
  return new Promise((resolve, reject) => {
    let gaveUp = false;
    const cancel = deadline(clock, waitMs, () => {
      gaveUp = true;
      const why = `within ${waitMs} ms`;
      reject(pool.waitingCount ? exhausted(why) : lost("connect", `no connection ${why}`));
    });
    pool.connect((error, client) => {
      cancel();
      if (!client) return reject(notLent(error));
      if (gaveUp) client.release();
      else resolve(lend(client));
    });
  });
}

/** The pool says by a message only that all its clients were busy for `connectionTimeoutMillis`. */
function notLent(error: Error | undefined): MillstreamError {
  if (error?.message === "timeout exceeded when trying to connect") return exhausted("in time", error);
  return failure(error, "connect");
}

function exhausted(when: string, cause?: unknown): MillstreamError {
  return new MillstreamError(
    "OVERLOADED",
    `Cannot get a client from the pool: none was free ${when}; nothing was executed`,
    { cause },
  );
}

/** A client while it is lent. It goes back to the pool exactly once: as it was, or to be thrown away. */
function clientConnection(
  client: PgClient,
  onReturn: (connection: Connection) => void,
): { readonly connection: Connection; giveBack(): void } {
  const gone = new AbortController();
  let returned = false;
  const onLost = (error?: Error): void => destroy(error ?? new Error("The connection was closed"));
  client.on("error", onLost);
  client.on("end", onLost);

  async function send(text: string, values?: readonly Encoded[]): Promise<Reply> {
    const query = values
      ? { text, values: [...values], queryMode: "extended", types: TYPES }
      : { text, types: TYPES };
    const result = await client.query(query);
    const last = Array.isArray(result) ? result[result.length - 1] : result;
    return { rows: [...last?.rows ?? []] as SqlRow[], command: last?.command ?? "" };
  }

  function destroy(reason: unknown): void {
    gone.abort(reason);
    giveBack(reason instanceof Error ? reason : new Error("The connection was given up"));
  }

  function giveBack(error?: Error): void {
    if (returned) return;
    returned = true;
    onReturn(connection);
    client.release(error); // from here on the pool listens to its errors
    client.removeListener("error", onLost);
    client.removeListener("end", onLost);
  }

  const connection: Connection = { gone: gone.signal, send, destroy };
  return { connection, giveBack: () => giveBack() };
}

/** All columns leave by the table that all drivers share. They come as text unless the pool asks for binary ones. */
const TYPES = {
  getTypeParser(oid: number, format = "text"): (text: string) => unknown {
    return format === "text" ? columnParser(oid) : binaryUnsupported;
  },
};

function binaryUnsupported(): never {
  throw new MillstreamError(
    "UNSUPPORTED",
    `Cannot read a binary column: expected a Pool without the option "binary"`,
  );
}
