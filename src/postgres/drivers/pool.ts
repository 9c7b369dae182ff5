/**
 * A pool of connections that are opened when they are needed, lent to one user at a time, and replaced when they die.
 *
 * @module
 */
import type { Clock } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import { type Connection, deadline, type Lender } from "./connection.ts";
import { lost } from "./failures.ts";

/** What {@linkcode connectionPool} needs. */
export interface PoolOptions {
  /** Connections at most. */
  readonly size: number;
  /** Opens one. Settles in bounded time. */
  open(): Promise<Connection>;
  readonly clock: Clock;
  /** Callers that may wait for a connection at a time. @default 10_000 */
  readonly maxWaiting?: number;
  /** A connection older than this is not lent again, in milliseconds. @default 30 minutes */
  readonly maxAgeMs?: number;
}

/** Someone who waits for a connection. */
interface Waiter {
  resolve(connection: Connection): void;
  reject(error: MillstreamError): void;
}

/** After failures to connect, the pool refuses for this long before it tries again. */
const COOL_DOWN_MS = { first: 25, max: 1_000 };

/** The pool. Waiters are served in the order in which they came. */
export function connectionPool(options: PoolOptions): Lender {
  const { size, clock, maxWaiting = 10_000, maxAgeMs = 1_800_000 } = options;
  const idle: Connection[] = []; // the one used last at the end, so that the others grow old
  const lent = new Set<Connection>();
  const bornAt = new WeakMap<Connection, number>();
  const waiting = new Set<Waiter>();
  let opening = 0;
  let closed = false;
  let failures = 0;
  let lastFailure: { readonly error: MillstreamError; readonly until: number } | undefined;

  return { acquire, release, suspect, close };

  async function acquire(waitMs: number): Promise<Connection> {
    if (closed) throw closedError();
    const connection = idle.pop();
    if (connection) {
      lent.add(connection);
      return connection;
    }
    if (lastFailure && alive() + opening === 0 && clock.monotonic() < lastFailure.until) {
      throw tooSoon(lastFailure.error);
    }
    if (waiting.size >= maxWaiting) throw overloaded(`${waiting.size} callers wait already`);
    return await wait(waitMs);
  }

  function wait(waitMs: number): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const cancel = deadline(clock, waitMs, () => waiter.reject(timedOut(waitMs)));
      const waiter: Waiter = {
        resolve(connection) {
          leave();
          lent.add(connection);
          resolve(connection);
        },
        reject(error) {
          leave();
          reject(error);
        },
      };
      function leave(): void {
        cancel();
        waiting.delete(waiter);
      }
      waiting.add(waiter);
      grow();
    });
  }

  /** Opens as many connections as there are waiters for, within the size. */
  function grow(): void {
    while (!closed && opening < waiting.size && alive() + opening < size) {
      opening++;
      options.open().then(opened, failed);
    }
  }

  function opened(connection: Connection): void {
    opening--;
    failures = 0;
    lastFailure = undefined;
    bornAt.set(connection, clock.monotonic());
    if (closed) return connection.destroy(closedError());
    if (connection.gone.aborted) return grow();
    connection.gone.addEventListener("abort", () => forget(connection), { once: true });
    offer(connection);
  }

  /** With live connections left, waiters may still get one of those in time. */
  function failed(error: MillstreamError): void {
    opening--;
    const coolDownMs = Math.min(COOL_DOWN_MS.max, COOL_DOWN_MS.first * 2 ** Math.min(failures++, 10));
    lastFailure = { error, until: clock.monotonic() + coolDownMs };
    if (alive() > 0 || opening > 0) return;
    for (const waiter of waiting) waiter.reject(error);
  }

  function offer(connection: Connection): void {
    const [waiter] = waiting;
    if (waiter) waiter.resolve(connection);
    else idle.push(connection);
  }

  function release(connection: Connection): void {
    if (!lent.delete(connection)) return;
    const old = clock.monotonic() - (bornAt.get(connection) ?? 0) > maxAgeMs;
    if (old || closed) connection.destroy(new Error(closed ? "The pool was closed" : "Retired for its age"));
    else offer(connection);
    grow();
  }

  function forget(connection: Connection): void {
    lent.delete(connection);
    const at = idle.indexOf(connection);
    if (at >= 0) idle.splice(at, 1);
    grow();
  }

  function suspect(): void {
    for (const connection of idle.splice(0)) connection.destroy(new Error("Another connection was lost"));
  }

  function close(): void {
    closed = true;
    for (const waiter of waiting) waiter.reject(closedError());
    for (const connection of [...idle, ...lent]) connection.destroy(closedError());
  }

  function alive(): number {
    return idle.length + lent.size;
  }

  function tooSoon(error: MillstreamError): MillstreamError {
    const { code, message, retryable, details } = error;
    return new MillstreamError(code, `${message}. That was the last attempt; the next one has to wait`, {
      cause: error,
      retryable,
      details,
    });
  }

  function timedOut(waitMs: number): MillstreamError {
    if (alive() === 0) return lost("connect", `no connection within ${waitMs} ms`, lastFailure?.error);
    return overloaded(`none was free within ${waitMs} ms`);
  }

  function overloaded(why: string): MillstreamError {
    return new MillstreamError(
      "OVERLOADED",
      `Cannot get one of ${size} connections: ${why}; nothing was executed`,
      {
        cause: lastFailure?.error,
        details: { size },
      },
    );
  }
}

const closedError = (): MillstreamError =>
  new MillstreamError("CLOSED", "Cannot get a connection: the driver was closed");
