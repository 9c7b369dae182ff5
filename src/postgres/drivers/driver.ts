/**
 * A driver over connections that come and go: single statements, transactions, and closing.
 *
 * @module
 */
import { type Clock, withDeadline } from "../../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../core/errors.ts";
import type { SqlDriver, SqlRow, SqlSession, SqlValue } from "../../ports/sql.ts";
import {
  type Connection,
  type Lender,
  opensTransaction,
  type Reply,
  run,
  transactionSession,
} from "./connection.ts";
import { beginRefused, rolledBack } from "./failures.ts";
import { type Encoded, encodeValues } from "./values.ts";

/** Deadlines that all drivers have. */
export interface DriverLimits {
  /**
   * How long a call may take, in milliseconds: a single statement with the wait for its connection, the start of a
   * transaction, each statement in it, and its COMMIT. @default 15_000
   */
  readonly timeoutMs?: number;
  /** How long `script` may take, in milliseconds. @default 120_000 */
  readonly scriptTimeoutMs?: number;
  /** @default the runtime's */
  readonly clock?: Clock;
}

/** What {@linkcode lendingDriver} is made of. */
export interface DriverParts {
  readonly name: string;
  /** For single statements. */
  readonly statements: Lender;
  /** For transactions. May be the same. */
  readonly transactions: Lender;
  readonly limits: Required<DriverLimits>;
}

/** The driver. Closing it waits for what runs, `timeoutMs` at most, and refuses what comes after. */
export function lendingDriver({ name, statements, transactions, limits }: DriverParts): SqlDriver {
  const { timeoutMs, scriptTimeoutMs, clock } = limits;
  const running = new Set<Promise<unknown>>();
  let closing: Promise<void> | undefined;

  return {
    name,
    singleSession: false,

    query: async <Row extends SqlRow = SqlRow>(text: string, values: readonly SqlValue[] = []) => {
      const encoded = encodeValues(values);
      const reply = await track(() => single(text, encoded, timeoutMs));
      return reply.rows as readonly Row[];
    },

    transaction: (work) => track(() => transaction(work)),
    script: async (text) => void await track(() => single(text, undefined, scriptTimeoutMs)),
    [Symbol.asyncDispose]: () => closing ??= close(),
  };

  async function single(text: string, values: readonly Encoded[] | undefined, ms: number): Promise<Reply> {
    const deadline = clock.monotonic() + ms;
    const connection = await statements.acquire(ms);
    try {
      const statement = {
        text,
        phase: "single",
        timeoutMs: ms,
        remainingMs: deadline - clock.monotonic(),
      } as const;
      const reply = await run(connection, values ? { ...statement, values } : statement, clock);
      if (!values || !opensTransaction(reply)) return reply;
      const error = beginRefused();
      connection.destroy(error);
      throw error;
    } finally {
      // A script may leave settings or an open transaction behind.
      if (!values) connection.destroy(new Error("A script was run"));
      giveBack(statements, connection);
    }
  }

  async function transaction<T>(work: (session: SqlSession) => Promise<T>): Promise<T> {
    const deadline = clock.monotonic() + timeoutMs;
    const connection = await transactions.acquire(timeoutMs);
    try {
      await begin(connection, deadline);
      return await commitAfter(connection, work);
    } finally {
      giveBack(transactions, connection);
    }
  }

  async function begin(connection: Connection, deadline: number): Promise<void> {
    // The server gives up at the same time as the client, or else a statement that waits for a lock would keep those
    // it has until it gets that one.
    const text = `begin isolation level read committed; set local statement_timeout = ${
      Math.ceil(timeoutMs)
    }`;
    const remainingMs = deadline - clock.monotonic();
    await run(connection, { text, phase: "begin", timeoutMs, remainingMs }, clock);
  }

  async function commitAfter<T>(
    connection: Connection,
    work: (session: SqlSession) => Promise<T>,
  ): Promise<T> {
    const session = transactionSession(connection, { clock, timeoutMs });
    let result: T;
    try {
      result = await work({ query: session.query });
    } catch (thrown) {
      session.end();
      // Should it fail, the connection is ended, which rolls back as well.
      await session.command("rollback", "transaction").catch(connection.destroy);
      throw thrown;
    }
    session.end();
    await session.idle();
    // Given up by the driver itself, which said why to whoever awaited the statement.
    if (isMillstreamError(connection.gone.reason)) throw connection.gone.reason;
    const reply = await session.command("commit", "commit");
    if (reply.command !== "COMMIT") throw rolledBack(session.firstFailure);
    return result;
  }

  function giveBack(lender: Lender, connection: Connection): void {
    // A reason of the library's own: the server did not answer, rather than that the connection was closed.
    if (isMillstreamError(connection.gone.reason)) lender.suspect();
    lender.release(connection);
  }

  /** Refuses what comes after closing, and keeps what runs for closing to wait for. */
  async function track<T>(start: () => Promise<T>): Promise<T> {
    if (closing) throw new MillstreamError("CLOSED", `Cannot use driver "${name}": it was closed`);
    const work = start();
    running.add(work);
    try {
      return await work;
    } finally {
      running.delete(work);
    }
  }

  async function close(): Promise<void> {
    await withDeadline(clock, timeoutMs, Promise.allSettled(running), () => new Error("still busy")).catch(
      () => {},
    );
    statements.close();
    transactions.close();
  }
}
