/**
 * Transactions in memory: one at a time, undone by a journal.
 *
 * The store has one session, as PGlite has: a transaction has it for itself, everything else queues up, first come
 * first served.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";

/** Where the ports do their work: on the store itself, or inside one transaction. */
export interface Session {
  /** Runs one call of a port. What it throws undoes what it did. */
  run<T>(call: () => T): Promise<T>;
  /** Registers how to undo what was just done. */
  undo(step: () => void): void;
  /** Registers what to do once it is certain. */
  onCommit(step: () => void): void;
}

/** The one session of a store. */
export interface Sessions {
  /** For calls outside of transactions: each is a transaction of its own. */
  readonly outside: Session;
  /** Runs `work` as one transaction. */
  transaction<T>(work: (session: Session) => Promise<T>): Promise<T>;
  /** Refuses all that comes, and what waits. */
  close(): void;
}

interface Waiter {
  readonly go: () => void;
  readonly refuse: (error: Error) => void;
}

/**
 * The session of a store.
 *
 * @param queueMs How long a call may wait for transactions before it.
 */
export function createSessions(clock: Clock, queueMs: number): Sessions {
  const waiters = new Set<Waiter>(); // first come first served
  let undos: Array<() => void> = [];
  let commits: Array<() => void> = [];
  let busy = false;
  let closed = false;

  /** Resolves when the session is this caller's, who then must call {@linkcode leave}. */
  function enter(): Promise<void> | undefined {
    if (closed) throw closedError();
    if (!busy) {
      busy = true;
      return undefined;
    }
    return new Promise((resolve, reject) => {
      const waiter: Waiter = {
        go() {
          cancel();
          resolve();
        },
        refuse(error) {
          cancel();
          reject(error);
        },
      };
      waiters.add(waiter);
      const cancel = clock.after(queueMs, () => {
        waiters.delete(waiter);
        reject(tooLong(queueMs));
      });
    });
  }

  function leave(): void {
    const [next] = waiters;
    busy = next !== undefined;
    if (!next) return;
    waiters.delete(next);
    next.go();
  }

  function commit(): void {
    const steps = commits;
    [undos, commits] = [[], []];
    for (const step of steps) step();
  }

  function rollback(): void {
    for (let step = undos.pop(); step; step = undos.pop()) step();
    commits = [];
  }

  const journal = {
    undo: (step: () => void) => void undos.push(step),
    onCommit: (step: () => void) => void commits.push(step),
  };

  const outside: Session = {
    ...journal,
    async run(call) {
      const turn = enter();
      if (turn) await turn;
      try {
        const result = call();
        commit();
        return result;
      } catch (error) {
        rollback();
        throw error;
      } finally {
        leave();
      }
    },
  };

  async function transaction<T>(work: (session: Session) => Promise<T>): Promise<T> {
    const turn = enter();
    if (turn) await turn;
    let over = false;
    const inside: Session = {
      ...journal,
      // deno-lint-ignore require-await -- rejects instead of throwing
      async run(call) {
        if (over) throw overError();
        const before = [undos.length, commits.length] as const;
        try {
          return call();
        } catch (error) {
          while (undos.length > before[0]) undos.pop()!();
          commits.length = before[1];
          throw error;
        }
      },
    };
    try {
      const result = await work(inside);
      if (closed) throw closedError();
      over = true;
      commit();
      return result;
    } catch (error) {
      over = true;
      rollback();
      throw error;
    } finally {
      leave();
    }
  }

  return {
    outside,
    transaction,
    close() {
      closed = true;
      for (const waiter of waiters) waiter.refuse(closedError());
      waiters.clear();
    },
  };
}

function tooLong(queueMs: number): MillstreamError {
  return new MillstreamError(
    "DEADLINE_EXCEEDED",
    `Cannot use store "memory": expected its turn within ${queueMs} ms, but a transaction is still open. ` +
      "Inside a transaction, call the ports given to it and not the store itself, which waits for the transaction to end",
    { details: { queueMs } },
  );
}

function overError(): MillstreamError {
  return new MillstreamError(
    "CLOSED",
    "Cannot use the ports of a transaction: it has ended. Await every call inside it",
  );
}

function closedError(): MillstreamError {
  return new MillstreamError("CLOSED", 'Cannot use store "memory": it was closed');
}
