/**
 * One connection to the server: what a client has to provide, and how statements run on it one after the other, each
 * with a deadline.
 *
 * @module
 */
import type { Clock } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { SqlRow, SqlSession, SqlValue } from "../../ports/sql.ts";
import { endsConnection, failure, late, lost, type Phase } from "./failures.ts";
import { type Encoded, encodeValues } from "./values.ts";

/** What came back. */
export interface Reply {
  readonly rows: readonly SqlRow[];
  /** The command tag without counts: `SELECT`, `COMMIT`. Of the last statement, if there were several. */
  readonly command: string;
}

/** Whether a statement opened a transaction. `START TRANSACTION` is cut to its first word by some clients. */
export const opensTransaction = ({ command }: Reply): boolean =>
  command === "BEGIN" || command.startsWith("START");

/** One connection. It never reconnects: once gone, it stays gone. */
export interface Connection {
  /** Aborts when the connection is gone, however that came about. The reason is what ended it. */
  readonly gone: AbortSignal;
  /**
   * Sends one statement by the extended protocol, or a script of several by the simple one if `values` is missing.
   * Never called while another runs, nor on a connection that is gone. It may never settle, and it may reject with
   * whatever the client throws.
   */
  send(text: string, values?: readonly Encoded[]): Promise<Reply>;
  /** Ends the connection at once, without waiting for anything, and with it what runs on the server. Never throws. */
  destroy(reason: unknown): void;
}

/** Where connections come from, and go back to. */
export interface Lender {
  /** @throws `UNAVAILABLE`, `OVERLOADED`, `REJECTED` or `CLOSED` within `waitMs`; nothing was executed. */
  acquire(waitMs: number): Promise<Connection>;
  /** Takes a connection back: to be lent again, or to be forgotten if it is gone. */
  release(connection: Connection): void;
  /** To be called when a connection stopped answering: idle ones may be as dead without anyone having noticed. */
  suspect(): void;
  /** Ends all connections. What was lent out by then is ended as well. */
  close(): void;
}

/** One statement on its way. */
export interface Statement {
  readonly text: string;
  /** Missing for a script. */
  readonly values?: readonly Encoded[];
  readonly phase: Phase;
  /** How long it may take, counted from the call. */
  readonly timeoutMs: number;
  /** What is left of that. When it is over, so is the connection. @default all of it */
  readonly remainingMs?: number;
}

/**
 * Runs one statement. It settles by its deadline, whatever the client does; if it fails for any other reason than the
 * server's refusal, the connection is ended.
 */
export function run(connection: Connection, statement: Statement, clock: Clock): Promise<Reply> {
  const { text, values, phase, timeoutMs } = statement;
  const { gone } = connection;
  return new Promise((resolve, reject) => {
    // Not sent, so nothing happened.
    if (gone.aborted) return reject(lost(UNSENT[phase], "the connection is gone", gone.reason));

    const cancel = deadline(clock, statement.remainingMs ?? timeoutMs, () => fail(late(phase, timeoutMs)));
    const onGone = (): void => fail(lost(phase, "the connection was lost", gone.reason));
    gone.addEventListener("abort", onGone, { once: true });
    send().then((reply) => {
      settle();
      resolve(reply);
    }, (error: unknown) => endsConnection(error) ? fail(failure(error, phase), error) : refuse(error));

    function settle(): void {
      cancel();
      gone.removeEventListener("abort", onGone);
    }

    function refuse(error: unknown): void {
      settle();
      reject(failure(error, phase));
    }

    function fail(error: MillstreamError, reason: unknown = error): void {
      settle();
      reject(error);
      connection.destroy(reason);
    }
  });

  async function send(): Promise<Reply> {
    return await connection.send(text, values);
  }
}

/**
 * Calls `callback` after `ms` milliseconds, unless the returned function is called before. A timer that fires late says
 * that this process was busy, not that the other side was silent: what has arrived meanwhile is read first.
 */
export function deadline(clock: Clock, ms: number, callback: () => void): () => void {
  const due = clock.monotonic() + Math.max(0, ms);
  let cancel = clock.after(ms, () => {
    if (clock.monotonic() - due < GRACE_MS) return callback();
    cancel = clock.after(GRACE_MS, callback);
  });
  return () => cancel();
}

/** Enough for a turn of the event loop. */
const GRACE_MS = 50;

/** What it means if a statement was not even sent. */
const UNSENT: Readonly<Record<Phase, Phase>> = {
  connect: "connect",
  begin: "begin",
  single: "connect",
  transaction: "transaction",
  commit: "transaction",
};

/** The session of a transaction. */
export interface TransactionSession extends SqlSession {
  /** Runs a statement of the transaction's own, such as COMMIT, after those that were asked for before. */
  command(text: string, phase: Phase): Promise<Reply>;
  /** Refuses statements from now on. */
  end(): void;
  /** Resolves when nothing runs any more. */
  idle(): Promise<void>;
  /** What the first statement that failed failed with. */
  readonly firstFailure: MillstreamError | undefined;
}

/** Lets one statement after the other onto a connection. Deadlines count from the call, so waiting counts as well. */
export function transactionSession(
  connection: Connection,
  { clock, timeoutMs }: { readonly clock: Clock; readonly timeoutMs: number },
): TransactionSession {
  let last: Promise<unknown> = Promise.resolve();
  let ended = false;
  let firstFailure: MillstreamError | undefined;

  /**
   * Only one statement at a time is handed to the client. postgres.js would queue a second one, and send it on a new
   * connection, outside the transaction, if this one died before.
   */
  function enqueue(text: string, values: readonly Encoded[] | undefined, phase: Phase): Promise<Reply> {
    const due = clock.monotonic() + timeoutMs;
    const turn = (): Promise<Reply> => {
      const statement = { text, phase, timeoutMs, remainingMs: Math.max(0, due - clock.monotonic()) };
      return run(connection, values ? { ...statement, values } : statement, clock);
    };
    const reply = last.then(turn, turn);
    last = reply;
    return reply;
  }

  return {
    get firstFailure() {
      return firstFailure;
    },

    async query<Row extends SqlRow = SqlRow>(
      text: string,
      values: readonly SqlValue[] = [],
    ): Promise<readonly Row[]> {
      if (ended) throw new MillstreamError("CLOSED", "Cannot run statement: the transaction is over");
      try {
        const reply = await enqueue(text, encodeValues(values), "transaction");
        if (reply.command === "COMMIT") throw endedEarly();
        return reply.rows as readonly Row[];
      } catch (error) {
        firstFailure ??= failure(error, "transaction");
        throw error;
      }
    },

    command: (text, phase) => enqueue(text, undefined, phase),
    end: () => void (ended = true),
    idle: () => last.then(() => {}, () => {}),
  };

  function endedEarly(): MillstreamError {
    const error = new MillstreamError(
      "REJECTED",
      "Cannot go on with the transaction: it was committed by a statement; it commits by itself when its work is done",
    );
    // What follows would run, and commit, statement by statement.
    connection.destroy(error);
    return error;
  }
}
