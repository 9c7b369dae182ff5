/**
 * The driver on npm `postgres` (postgres.js).
 *
 * That client gives transactions (`begin`) and reserved connections (`reserve`) to whatever connection takes the place
 * of one that died: a statement that comes late runs, and commits, in somebody else's transaction; others hang, or
 * throw where nobody can catch. So neither is used here. Each connection is a client of its own, for at most one
 * connection, that gets one statement at a time and is thrown away when its connection closes.
 *
 * @module
 */
import postgres from "postgres";
import { checkRange } from "../../core/backoff.ts";
import { type Clock, systemClock } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { SqlDriver, SqlRow } from "../../ports/sql.ts";
import { COLUMN_PARSERS } from "./columns.ts";
import { type Connection, type Reply, run } from "./connection.ts";
import { type DriverLimits, lendingDriver } from "./driver.ts";
import { connectionPool } from "./pool.ts";
import type { Encoded } from "./values.ts";

/** Options of {@linkcode postgresJsDriver}. */
export interface PostgresJsOptions extends DriverLimits {
  /** `postgres://user:password@host:port/database`, with several hosts if need be. */
  readonly url: string;
  /** TLS, as `postgres` takes it. @default what the URL says, or off */
  readonly ssl?: "require" | "allow" | "prefer" | "verify-full" | boolean | object;
  /** Connections for single statements, at most. @default 8 */
  readonly max?: number;
  /** Connections for transactions, at most. @default 4 */
  readonly transactions?: number;
  /** Keep statements prepared on the server. `false` behind a pooler in transaction mode. @default true */
  readonly prepare?: boolean;
  /** How long opening a connection may take, in milliseconds. @default 5_000 */
  readonly connectTimeoutMs?: number;
  /** Name of the connections in `pg_stat_activity`. @default "millstream" */
  readonly applicationName?: string;
}

/**
 * The driver. Connections are opened when they are first needed, so this neither fails nor waits.
 *
 * Each call settles within its deadline, also on a connection that has died without a word. What hit its deadline is
 * cancelled on the server as far as that can be reached.
 *
 * @throws `INVALID_ARGUMENT` for options out of range.
 */
export function postgresJsDriver(options: PostgresJsOptions): SqlDriver {
  const { url, max = 8, transactions = 4, clock = systemClock } = options;
  const { timeoutMs = 15_000, scriptTimeoutMs = 120_000, connectTimeoutMs = 5_000 } = options;
  checkRange("max", max, 1, 1_000, true);
  checkRange("transactions", transactions, 1, 1_000, true);
  checkRange("timeoutMs", timeoutMs, 1, 3_600_000);
  checkRange("scriptTimeoutMs", scriptTimeoutMs, 1, 86_400_000);
  checkRange("connectTimeoutMs", connectTimeoutMs, 1, 600_000);

  checkUrl(url, () => createClient(options, connectTimeoutMs, () => {}));

  const open = (): Promise<Connection> => connect(options, connectTimeoutMs, clock);
  return lendingDriver({
    name: "postgres",
    statements: connectionPool({ size: max, open, clock }),
    transactions: connectionPool({ size: transactions, open, clock }),
    limits: { timeoutMs, scriptTimeoutMs, clock },
  });
}

/** Opens a connection, and sees that it answers: whatever fails here, nothing was executed. */
async function connect(
  options: PostgresJsOptions,
  connectTimeoutMs: number,
  clock: Clock,
): Promise<Connection> {
  const gone = new AbortController();
  const client = createClient(
    options,
    connectTimeoutMs,
    () => gone.abort(new Error("The connection was closed")),
  );
  const connection = clientConnection(client, gone, options.prepare ?? true);
  limitAttempts(
    client.options.port,
    () => connection.destroy(new Error("The server hangs up on every attempt")),
  );
  await run(connection, { text: "select 1", phase: "connect", timeoutMs: connectTimeoutMs }, clock);
  return connection;
}

/**
 * A server, or a load balancer without one, that accepts connections only to hang up makes the client try again at
 * once, hundreds of times a second. All that can be seen of it from outside is that it reads the port each time.
 */
function limitAttempts(ports: number[], onTooMany: () => void): void {
  let reads = 0;
  ports.forEach((port, at) =>
    Object.defineProperty(ports, at, {
      get() {
        if (++reads === MAX_PORT_READS * ports.length) onTooMany();
        return port;
      },
    })
  );
}

/** Three attempts, with two reads each. */
const MAX_PORT_READS = 6;

function createClient(
  options: PostgresJsOptions,
  connectTimeoutMs: number,
  onclose: () => void,
): postgres.Sql {
  const { url, ssl, prepare = true, applicationName = "millstream" } = options;
  return postgres(url, {
    ...(ssl === undefined ? {} : { ssl }),
    prepare,
    max: 1,
    max_lifetime: null,
    idle_timeout: 0,
    connect_timeout: 2 * connectTimeoutMs / 1_000, // only cleans up: the deadline is our own
    keep_alive: 30,
    fetch_types: false,
    types: TYPES,
    connection: { application_name: applicationName },
    onnotice: () => {},
    onclose,
  });
}

/** All values arrive as text, and leave by the table that all drivers share. */
const TYPES: Readonly<Record<string, postgres.PostgresType>> = Object.fromEntries(
  [...COLUMN_PARSERS].map(([oid, parse]) => [
    `oid${oid}`,
    { to: oid, from: [oid], serialize: (text: string) => text, parse },
  ]),
);

function clientConnection(client: postgres.Sql, gone: AbortController, prepare: boolean): Connection {
  let pending: Cancellable | undefined;
  let ended = false;

  async function send(text: string, values?: readonly Encoded[]): Promise<Reply> {
    // The types lack `simple`: without it, a statement without values would be sent as a script.
    const options: object = values ? { prepare, simple: false } : { simple: true };
    const query = client.unsafe(text, values ? [...values] : [], options);
    pending = query;
    try {
      const result: object = await query;
      if (!Array.isArray(result)) throw copyUnsupported();
      const { command } = result as { readonly command?: string };
      return { rows: [...result] as SqlRow[], command: command ?? "" };
    } finally {
      pending = undefined;
    }
  }

  function destroy(reason: unknown): void {
    if (ended) return;
    ended = true;
    if (!gone.signal.aborted) cancel(pending);
    gone.abort(reason);
    client.end({ timeout: 0 }).catch(() => {});
  }

  return { gone: gone.signal, send, destroy };
}

/** A statement on its way, which is a promise as well. */
interface Cancellable {
  cancel(): unknown;
}

/**
 * Asks the server, on a connection of its own, to stop what runs: it would not notice by itself that nobody waits for
 * it any more. Best effort.
 */
function cancel(query: Cancellable | undefined): void {
  Promise.resolve(query?.cancel()).catch(() => {});
}

/** Its answer is a stream, and the connection stays in copy mode. */
function copyUnsupported(): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    "Cannot run COPY: expected a statement that returns rows or a count",
  );
}

/** Its own error would repeat the URL, and the password in it. */
function checkUrl(url: string, use: () => unknown): void {
  try {
    // A client opens no connection before its first statement.
    if (/^postgres(ql)?:\/\//.test(url) && use()) return;
  } catch {
    // Reported below.
  }
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "url": expected postgres://user:password@host:port/database, got something else`,
    { details: { option: "url" } },
  );
}
