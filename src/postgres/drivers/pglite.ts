/**
 * The driver on PGlite, Postgres inside the process, which the application brings along.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { systemClock, withDeadline } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { SqlDriver, SqlRow, SqlSession, SqlValue } from "../../ports/sql.ts";
import { COLUMN_PARSERS, type ColumnParser } from "./columns.ts";
import { type Connection, deadline, opensTransaction, type Reply, transactionSession } from "./connection.ts";
import type { DriverLimits } from "./driver.ts";
import { beginRefused, failure, isServerError, late, rolledBack } from "./failures.ts";
import { type Encoded, encodeValues } from "./values.ts";

/** What the driver uses of `PGlite`. */
export interface PGliteClient extends PGliteSession {
  readonly waitReady: Promise<void>;
  readonly closed: boolean;
  readonly parsers: Readonly<Record<number | string, unknown>>;
  exec(text: string): Promise<unknown>;
  transaction<T>(work: (transaction: PGliteSession) => Promise<T>): Promise<T>;
}

/** What the driver uses of a transaction of PGlite. */
export interface PGliteSession {
  query(text: string, values?: unknown[], options?: PGliteQueryOptions): Promise<PGliteResult>;
}

/** How PGlite shall read and write values. */
export interface PGliteQueryOptions {
  parsers: Record<number, ColumnParser>;
  serializers: Record<number, (value: unknown) => string>;
}

/** What PGlite answers. */
export interface PGliteResult {
  readonly rows: readonly unknown[];
  readonly command?: string;
}

/** Options of {@linkcode pgliteDriver}. */
export interface PGliteOptions extends DriverLimits {
  /** The database, in this thread. It stays the caller's, who closes it after the driver was closed. */
  readonly pglite: PGliteClient;
}

/**
 * The driver. PGlite has one session: calls run one after the other in the order in which they came, and each waits for
 * its turn `timeoutMs` at most.
 *
 * A call on the driver from inside a transaction on the same driver waits for that transaction, which waits for the
 * call: it fails with `DEADLINE_EXCEEDED`. Use the session that the transaction was given instead.
 *
 * @throws `INVALID_ARGUMENT` for options out of range.
 */
export function pgliteDriver(options: PGliteOptions): SqlDriver {
  const { pglite, timeoutMs = 15_000, scriptTimeoutMs = 120_000, clock = systemClock } = options;
  if (typeof pglite?.transaction !== "function" || typeof pglite.exec !== "function") {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use option "pglite": expected an instance of PGlite`,
    );
  }
  checkRange("timeoutMs", timeoutMs, 1, 3_600_000);
  checkRange("scriptTimeoutMs", scriptTimeoutMs, 1, 86_400_000);
  const queryOptions = createQueryOptions(pglite);
  let last: Promise<void> = Promise.resolve();
  let closing: Promise<void> | undefined;

  return {
    name: "pglite",
    singleSession: true,

    query: async <Row extends SqlRow = SqlRow>(text: string, values: readonly SqlValue[] = []) => {
      const encoded = encodeValues(values);
      const reply = await inTurn(() => alone(timeoutMs, single(text, encoded)));
      return reply.rows as readonly Row[];
    },

    transaction: (work) => inTurn(() => transaction(work)),
    script: (text) => inTurn(() => alone(scriptTimeoutMs, script(text))),
    [Symbol.asyncDispose]: () => closing ??= close(),
  };

  /**
   * Waits until PGlite has started, and then until those that came before are done. Who gives up waiting is passed
   * over. Starting takes seconds, in which nothing else runs in this thread, so it does not count.
   */
  async function inTurn<T>(job: () => Promise<T>): Promise<T> {
    checkOpen();
    await started();
    return await new Promise((resolve, reject) => {
      let gaveUp = false;
      const cancel = deadline(clock, timeoutMs, () => {
        gaveUp = true;
        reject(neverItsTurn(timeoutMs));
      });
      last = last.then(async () => {
        if (gaveUp) return;
        cancel();
        await job().then(resolve, reject);
      });
    });
  }

  function checkOpen(): void {
    if (closing) throw new MillstreamError("CLOSED", `Cannot use driver "pglite": it was closed`);
  }

  async function started(): Promise<void> {
    try {
      await pglite.waitReady;
    } catch (error) {
      throw failure(error, "connect");
    }
  }

  /** PGlite may be busy with what the application runs on it directly, so the turn alone bounds nothing. */
  function alone<T>(ms: number, work: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      const cancel = deadline(clock, ms, () => reject(late("single", ms)));
      work.finally(cancel).then(
        resolve,
        (error: unknown) => reject(failure(error, pglite.closed ? "connect" : "single")),
      );
    });
  }

  async function single(text: string, values: readonly Encoded[]): Promise<Reply> {
    const reply = await send(pglite, text, values);
    if (!opensTransaction(reply)) return reply;
    await pglite.exec("rollback");
    throw beginRefused();
  }

  async function script(text: string): Promise<void> {
    try {
      await pglite.exec(text);
    } finally {
      // It may have left a transaction open. Without one, this is a warning that nobody sees.
      if (!pglite.closed) await pglite.exec("rollback");
    }
  }

  async function transaction<T>(work: (session: SqlSession) => Promise<T>): Promise<T> {
    let thrown: { readonly error: unknown } | undefined;
    let firstFailure: MillstreamError | undefined;
    const start = startDeadline();

    const outcome = pglite.transaction(async (native) => {
      start.begin();
      const connection = transactionConnection(native);
      const session = transactionSession(connection, { clock, timeoutMs });
      try {
        const result = await work({ query: session.query });
        session.end();
        await session.idle();
        firstFailure = session.firstFailure;
        connection.gone.throwIfAborted();
        return result;
      } catch (error) {
        session.end();
        await session.idle();
        thrown = { error };
        throw error;
      }
    });

    try {
      return await Promise.race([outcome, start.missed]);
    } catch (error) {
      if (thrown) throw thrown.error;
      if (start.begun && isServerError(error) && error.code === "25P02") throw rolledBack(firstFailure);
      throw failure(error, start.begun ? "commit" : "connect");
    } finally {
      start.cancel();
    }
  }

  /** PGlite may be busy with what the application runs on it directly. What it begins too late is rolled back. */
  function startDeadline(): StartDeadline {
    let state: "waiting" | "begun" | "missed" = "waiting";
    let cancel = (): void => {};
    const missed = new Promise<never>((_, reject) => {
      cancel = deadline(clock, timeoutMs, () => {
        state = "missed";
        reject(neverItsTurn(timeoutMs));
      });
    });
    return {
      missed,
      cancel: () => cancel(),
      get begun() {
        return state === "begun";
      },
      begin() {
        cancel();
        if (state === "missed") throw neverItsTurn(timeoutMs);
        state = "begun";
      },
    };
  }

  function transactionConnection(native: PGliteSession): Connection {
    const gone = new AbortController();
    return {
      gone: gone.signal,
      send: (text, values = []) => send(native, text, values),
      destroy: (reason) => gone.abort(reason),
    };
  }

  async function send(session: PGliteSession, text: string, values: readonly Encoded[]): Promise<Reply> {
    const { rows, command = "" } = await session.query(text, [...values], queryOptions());
    return { rows: rows as readonly SqlRow[], command };
  }

  async function close(): Promise<void> {
    await withDeadline(clock, timeoutMs, last, () => new Error("still busy")).catch(() => {});
  }
}

/** Decides whether a transaction begins in time. */
interface StartDeadline {
  /** Rejects if it does not. */
  readonly missed: Promise<never>;
  readonly begun: boolean;
  /** Notes that it begins; throws if that is too late. */
  begin(): void;
  cancel(): void;
}

function neverItsTurn(ms: number): MillstreamError {
  return new MillstreamError(
    "DEADLINE_EXCEEDED",
    `Cannot run statement: PGlite was busy for ${ms} ms; nothing was executed. It has one session, so a call on the ` +
      `store or driver from inside a transaction waits for itself: expected the transaction's own session to be used`,
  );
}

/** All values arrive as text, and leave by the table that all drivers share, in spite of what PGlite knows itself. */
function createQueryOptions(pglite: PGliteClient): () => PGliteQueryOptions {
  const serializers = new Proxy({}, { get: () => String }) as PGliteQueryOptions["serializers"];
  let known = -1;
  let parsers: Record<number, ColumnParser> = {};

  return () => {
    // It learns about arrays of the application's types as they are created.
    const types = Object.keys(pglite.parsers);
    if (types.length !== known) {
      known = types.length;
      parsers = Object.fromEntries([...types.map((type) => [type, String] as const), ...COLUMN_PARSERS]);
    }
    return { parsers, serializers };
  };
}
