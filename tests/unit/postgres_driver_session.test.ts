import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import {
  type Connection,
  type Reply,
  run,
  transactionSession,
} from "../../src/postgres/drivers/connection.ts";
import { lendingDriver } from "../../src/postgres/drivers/driver.ts";
import { connectionPool } from "../../src/postgres/drivers/pool.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/virtual_clock.ts";

/** A connection whose replies a test gives by hand. */
interface FakeConnection extends Connection {
  readonly sent: string[];
  /** Answers the oldest statement that waits. */
  answer(reply?: Partial<Reply>): void;
  fail(error: unknown): void;
  readonly waiting: number;
  readonly reasons: unknown[];
}

function fakeConnection(automatic?: (text: string) => Partial<Reply> | undefined): FakeConnection {
  const gone = new AbortController();
  const open: Array<{ resolve(reply: Reply): void; reject(error: unknown): void }> = [];
  const sent: string[] = [];
  const reasons: unknown[] = [];
  return {
    gone: gone.signal,
    sent,
    reasons,
    get waiting() {
      return open.length;
    },
    answer: (reply) => open.shift()?.resolve({ rows: [], command: "SELECT", ...reply }),
    fail: (error) => open.shift()?.reject(error),
    send: (text) => {
      sent.push(text);
      const reply = automatic?.(text);
      if (reply) return Promise.resolve({ rows: [], command: "SELECT", ...reply });
      return new Promise((resolve, reject) => open.push({ resolve, reject }));
    },
    destroy(reason) {
      reasons.push(reason);
      gone.abort(reason);
    },
  };
}

const serverError = (code: string, severity = "ERROR", more: object = {}): Error =>
  Object.assign(new Error(`value "secret" is bad`), { code, severity, ...more });

const code = (expected: string) => (error: unknown): boolean => isMillstreamError(error, expected as never);

/** Marks a rejection that a test looks at later as handled. */
function later<T>(promise: Promise<T>): Promise<T> {
  promise.catch(() => {});
  return promise;
}

describe("a statement", () => {
  const single = { text: "select 1", values: [], phase: "single", timeoutMs: 1_000 } as const;

  test("that gets no reply fails at its deadline, and its connection is ended", async () => {
    const clock = virtualClock();
    const connection = fakeConnection();
    const result = later(run(connection, single, clock));
    await clock.advance(999);
    assert.equal(connection.gone.aborted, false);
    await clock.advance(1);
    await assert.rejects(result, code("COMMIT_INDETERMINATE"));
    assert.equal(connection.gone.aborted, true);
    assert.equal(clock.pending, 0);
  });

  test("whose reply has arrived while the process was busy beyond the deadline succeeds", async () => {
    const late: Array<() => void> = [];
    let elapsed = 0;
    const clock = {
      now: () => elapsed,
      monotonic: () => elapsed,
      after: (_ms: number, callback: () => void) => (late.push(callback), () => {}),
    };
    const connection = fakeConnection();
    const result = run(connection, single, clock);
    elapsed = 7_000; // the event loop stood still; timers come before what the network has
    late[0]!();
    connection.answer();
    await result;
    assert.equal(connection.gone.aborted, false);

    const silent = later(run(connection, single, clock));
    elapsed = 14_000;
    late.at(-1)!();
    late.at(-1)!();
    await assert.rejects(silent, code("COMMIT_INDETERMINATE"));
  });

  test("inside a transaction that gets no reply fails with DEADLINE_EXCEEDED", async () => {
    const clock = virtualClock();
    const result = later(run(fakeConnection(), { ...single, phase: "transaction" }, clock));
    await clock.advance(1_000);
    await assert.rejects(result, code("DEADLINE_EXCEEDED"));
  });

  test("whose connection dies without the client's rejecting it fails all the same", async () => {
    const clock = virtualClock();
    const connection = fakeConnection();
    const result = later(run(connection, single, clock));
    connection.destroy(new Error("died"));
    await assert.rejects(result, code("COMMIT_INDETERMINATE"));
    assert.equal(clock.pending, 0);
  });

  test("on a connection that is gone is not sent, so that nothing happened", async () => {
    const connection = fakeConnection();
    connection.destroy(new Error("died"));
    for (const phase of ["connect", "begin", "single", "transaction", "commit"] as const) {
      await assert.rejects(run(connection, { ...single, phase }, virtualClock()), code("UNAVAILABLE"));
    }
    assert.deepEqual(connection.sent, []);
  });

  const fate = [
    ["single", "COMMIT_INDETERMINATE"],
    ["commit", "COMMIT_INDETERMINATE"],
    ["transaction", "UNAVAILABLE"],
    ["begin", "UNAVAILABLE"],
    ["connect", "UNAVAILABLE"],
  ] as const;
  for (const [phase, expected] of fate) {
    test(`of phase ${phase} that the client fails for its own reasons is ${expected}, and the connection is ended`, async () => {
      const connection = fakeConnection();
      const result = later(run(connection, { ...single, phase }, virtualClock()));
      connection.fail(Object.assign(new Error("secret"), { code: "EPIPE" }));
      await assert.rejects(result, code(expected));
      assert.equal(connection.gone.aborted, true);
    });
  }

  const refusals: ReadonlyArray<readonly [sqlState: string, expected: string, retryable: boolean]> = [
    ["40001", "CONCURRENCY_CONFLICT", true],
    ["40P01", "CONCURRENCY_CONFLICT", true],
    ["53100", "OVERLOADED", true],
    ["53300", "OVERLOADED", true],
    ["57014", "DEADLINE_EXCEEDED", true],
    ["57P03", "UNAVAILABLE", true],
    ["08006", "UNAVAILABLE", true],
    ["08007", "COMMIT_INDETERMINATE", true],
    ["55P03", "REJECTED", true],
    ["23505", "REJECTED", false],
    ["22P02", "REJECTED", false],
    ["P0001", "REJECTED", false],
    ["MS404", "REJECTED", false],
  ];
  for (const [sqlState, expected, retryable] of refusals) {
    test(`that the server refuses with ${sqlState} is ${expected}, and the connection lives on`, async () => {
      const connection = fakeConnection();
      const result = later(run(connection, single, virtualClock()));
      const error = serverError(sqlState, "ERROR", { constraint_name: "orders_pkey", table: "orders" });
      connection.fail(error);
      await assert.rejects(result, (failure: unknown) => {
        assert.ok(isMillstreamError(failure, expected as never), String(failure));
        assert.equal(failure.retryable, retryable);
        assert.equal(failure.cause, error);
        assert.deepEqual(failure.details, { sqlState, table: "orders", constraint: "orders_pkey" });
        return true;
      });
      assert.equal(connection.gone.aborted, false);
    });
  }

  test("does not repeat messages of the server that quote values", async () => {
    for (const sqlState of ["22P02", "22003", "P0001", "MS404"]) {
      const connection = fakeConnection();
      const result = later(run(connection, single, virtualClock()));
      connection.fail(serverError(sqlState));
      await assert.rejects(result, (error: Error) => !error.message.includes("secret"));
    }
  });

  test("that the server ends together with its connection may have been executed", async () => {
    for (const severity of ["FATAL", "PANIC"]) {
      const connection = fakeConnection();
      const result = later(run(connection, single, virtualClock()));
      connection.fail(serverError("57P01", severity));
      await assert.rejects(result, code("COMMIT_INDETERMINATE"));
      assert.equal(connection.gone.aborted, true);
    }
  });
});

describe("the session of a transaction", () => {
  function open(): {
    clock: VirtualClock;
    connection: FakeConnection;
    session: ReturnType<typeof transactionSession>;
  } {
    const clock = virtualClock();
    const connection = fakeConnection();
    return { clock, connection, session: transactionSession(connection, { clock, timeoutMs: 1_000 }) };
  }

  test("hands the client one statement at a time, in the order of the calls", async () => {
    const { clock, connection, session } = open();
    const all = Promise.all([session.query("a"), session.query("b"), session.query("c")]);
    await clock.advance(0);
    assert.deepEqual(connection.sent, ["a"]);
    connection.answer();
    await clock.advance(0);
    assert.deepEqual(connection.sent, ["a", "b"]);
    connection.answer();
    await clock.advance(0);
    connection.answer();
    await all;
    assert.deepEqual(connection.sent, ["a", "b", "c"]);
  });

  test("never sends what waited behind a statement when the connection died", async () => {
    const { clock, connection, session } = open();
    const results = Promise.allSettled([
      session.query("a"),
      session.query("b"),
      session.command("commit", "commit"),
    ]);
    await clock.advance(0);
    connection.destroy(new Error("died"));
    const outcomes = await results;
    assert.ok(
      outcomes.every((outcome) => outcome.status === "rejected" && code("UNAVAILABLE")(outcome.reason)),
    );
    assert.deepEqual(connection.sent, ["a"]);
  });

  test("counts the wait behind other statements into the deadline", async () => {
    const { clock, connection, session } = open();
    const first = session.query("a");
    const second = later(session.query("b"));
    await clock.advance(600);
    connection.answer();
    await first;
    await clock.advance(399);
    assert.equal(connection.gone.aborted, false);
    await clock.advance(1);
    await assert.rejects(second, code("DEADLINE_EXCEEDED"));
  });

  test("goes on after a statement that the server refused, as savepoints need it", async () => {
    const { clock, connection, session } = open();
    const first = later(session.query("a"));
    const second = session.query("rollback to savepoint s");
    await clock.advance(0);
    connection.fail(serverError("23505"));
    await assert.rejects(first, code("REJECTED"));
    await clock.advance(0);
    connection.answer({ command: "ROLLBACK" });
    await second;
    assert.equal(session.firstFailure?.details.sqlState, "23505");
  });

  test("refuses calls after its end", async () => {
    const { session, connection } = open();
    session.end();
    await assert.rejects(session.query("late"), code("CLOSED"));
    assert.deepEqual(connection.sent, []);
  });

  test("ends the connection if a statement of the application commits", async () => {
    const { clock, connection, session } = open();
    const result = later(session.query("commit"));
    await clock.advance(0);
    connection.answer({ command: "COMMIT" });
    await assert.rejects(result, code("REJECTED"));
    assert.equal(connection.gone.aborted, true);
    await assert.rejects(session.query("insert"), code("UNAVAILABLE"));
    assert.deepEqual(connection.sent, ["commit"]);
  });
});

describe("a pool of connections", () => {
  interface Server {
    readonly connections: FakeConnection[];
    attempts: number;
    failing: boolean;
  }

  function pooled(size: number, more: object = {}) {
    const clock = virtualClock();
    const server: Server = { connections: [], attempts: 0, failing: false };
    const pool = connectionPool({
      size,
      clock,
      open() {
        server.attempts++;
        if (server.failing) return Promise.reject(unavailable());
        const connection = fakeConnection();
        server.connections.push(connection);
        return Promise.resolve(connection);
      },
      ...more,
    });
    return { clock, server, pool };
  }

  const unavailable = (): Error =>
    Object.assign(new Error("down"), { name: "MillstreamError", code: "UNAVAILABLE" });

  test("opens connections only when they are needed, and lends the same one again", async () => {
    const { server, pool } = pooled(3);
    const first = await pool.acquire(100);
    pool.release(first);
    assert.equal(await pool.acquire(100), first);
    assert.equal(server.attempts, 1);
  });

  test("serves those who wait in their order, and tells who waits too long that it is overloaded", async () => {
    const { clock, pool } = pooled(1);
    const held = await pool.acquire(100);
    const order: string[] = [];
    const impatient = later(pool.acquire(50));
    const first = pool.acquire(100).then((connection) => (order.push("first"), connection));
    const second = pool.acquire(100).then((connection) => (order.push("second"), connection));
    await clock.advance(50);
    await assert.rejects(impatient, code("OVERLOADED"));
    pool.release(held);
    pool.release(await first);
    await second;
    assert.deepEqual(order, ["first", "second"]);
    assert.equal(clock.pending, 0);
  });

  test("lets no more than maxWaiting wait", async () => {
    const { pool } = pooled(1, { maxWaiting: 1 });
    await pool.acquire(100);
    void later(pool.acquire(100));
    await assert.rejects(pool.acquire(100), code("OVERLOADED"));
  });

  test("replaces a lent connection as soon as it dies, while its user still works on", async () => {
    const { clock, server, pool } = pooled(1);
    const dying = await pool.acquire(100);
    const next = pool.acquire(100);
    await clock.advance(0);
    assert.equal(server.attempts, 1);
    dying.destroy(new Error("died"));
    const replacement = await next;
    assert.notEqual(replacement, dying);
    pool.release(dying); // late, and of no consequence
    pool.release(replacement);
    assert.equal(await pool.acquire(100), replacement);
  });

  test("forgets an idle connection that dies", async () => {
    const { server, pool } = pooled(1);
    const first = await pool.acquire(100);
    pool.release(first);
    first.destroy(new Error("died"));
    assert.notEqual(await pool.acquire(100), first);
    assert.equal(server.attempts, 2);
  });

  test("ends idle connections when another one has stopped answering", async () => {
    const { pool } = pooled(2);
    const [first, second] = await Promise.all([pool.acquire(100), pool.acquire(100)]);
    pool.release(second);
    first.destroy(new Error("silent"));
    pool.suspect();
    assert.equal(second.gone.aborted, true);
  });

  test("does not lend a connection again that is too old", async () => {
    const { clock, pool } = pooled(1, { maxAgeMs: 1_000 });
    const first = await pool.acquire(100);
    await clock.advance(1_001);
    pool.release(first);
    assert.equal(first.gone.aborted, true);
    assert.notEqual(await pool.acquire(100), first);
  });

  test("tells all who wait when the server cannot be reached, and does not try again at once", async () => {
    const { clock, server, pool } = pooled(1);
    server.failing = true;
    const outcomes = await Promise.allSettled([pool.acquire(100), pool.acquire(100), pool.acquire(100)]);
    assert.ok(
      outcomes.every((outcome) => outcome.status === "rejected" && code("UNAVAILABLE")(outcome.reason)),
    );
    for (let call = 0; call < 100; call++) await assert.rejects(pool.acquire(100), code("UNAVAILABLE"));
    assert.equal(server.attempts, 1);

    for (let call = 0; call < 10_000; call++) {
      await pool.acquire(100).catch(() => {});
      if (call % 100 === 0) await clock.advance(100);
    }
    assert.ok(server.attempts < 20, `${server.attempts} attempts in 10 s`);

    server.failing = false;
    await clock.advance(1_000);
    await pool.acquire(100);
  });

  test("lets those who wait have a connection that is still alive when no further one can be opened", async () => {
    const { clock, server, pool } = pooled(2);
    const alive = await pool.acquire(100);
    server.failing = true;
    const waiter = pool.acquire(100);
    await clock.advance(0);
    pool.release(alive);
    assert.equal(await waiter, alive);
  });

  test("refuses everyone once it is closed, and ends all connections, also one that opens late", async () => {
    const clock = virtualClock();
    const late = fakeConnection();
    let open: (connection: Connection) => void = () => {};
    const pool = connectionPool({ size: 1, clock, open: () => new Promise((resolve) => open = resolve) });
    const waiter = later(pool.acquire(100));
    pool.close();
    await assert.rejects(waiter, code("CLOSED"));
    await assert.rejects(pool.acquire(100), code("CLOSED"));
    open(late);
    await clock.advance(0);
    assert.equal(late.gone.aborted, true);
    assert.equal(clock.pending, 0);
  });
});

describe("a driver over connections", () => {
  function created(reply: (text: string) => Partial<Reply> | undefined = () => ({})) {
    const clock = virtualClock();
    const connections: FakeConnection[] = [];
    const open = (): Promise<Connection> => {
      const connection = fakeConnection((text) =>
        text.startsWith("begin") ? { command: "BEGIN" } : reply(text)
      );
      connections.push(connection);
      return Promise.resolve(connection);
    };
    const driver = lendingDriver({
      name: "fake",
      statements: connectionPool({ size: 1, open, clock }),
      transactions: connectionPool({ size: 1, open, clock }),
      limits: { timeoutMs: 1_000, scriptTimeoutMs: 5_000, clock },
    });
    return { clock, driver, connections };
  }

  test("commits once the work is done, statements that nobody awaited included", async () => {
    const { driver, connections } = created((text) => text === "commit" ? { command: "COMMIT" } : {});
    const result = await driver.transaction((session) => {
      void session.query("a");
      void session.query("b");
      return Promise.resolve("done");
    });
    assert.equal(result, "done");
    assert.deepEqual(connections[0]?.sent.slice(1), ["a", "b", "commit"]);
  });

  test("does not take ROLLBACK for COMMIT", async () => {
    const { driver } = created((text) => text === "commit" ? { command: "ROLLBACK" } : {});
    await assert.rejects(driver.transaction(() => Promise.resolve()), code("REJECTED"));
  });

  test("does not commit, and throws what the work threw, whatever became of the rollback", async () => {
    const { clock, driver, connections } = created((text) => text === "rollback" ? undefined : {});
    const thrown = new Error("no");
    const result = later(driver.transaction(() => Promise.reject(thrown)));
    await clock.advance(1_000);
    await assert.rejects(result, (error: unknown) => error === thrown);
    assert.equal(connections[0]?.sent.includes("commit"), false);
    assert.equal(connections[0]?.gone.aborted, true);
  });

  test("says COMMIT_INDETERMINATE if the reply to COMMIT does not come, and ends the connection", async () => {
    const { clock, driver, connections } = created((text) => text === "commit" ? undefined : {});
    const result = later(driver.transaction(() => Promise.resolve()));
    await clock.advance(1_000);
    await assert.rejects(result, code("COMMIT_INDETERMINATE"));
    assert.equal(connections[0]?.gone.aborted, true);
  });

  test("ends the connection on which a statement opened a transaction", async () => {
    const { driver, connections } = created((text) =>
      text === "start transaction" ? { command: "START" } : {}
    );
    await assert.rejects(driver.query("start transaction"), code("REJECTED"));
    assert.equal(connections[0]?.gone.aborted, true);
  });

  test("runs a script on a connection that nobody gets afterwards, within a deadline of its own", async () => {
    const { clock, driver, connections } = created((text) => text === "slow" ? undefined : {});
    await driver.script("begin; set search_path to x");
    assert.equal(connections[0]?.gone.aborted, true);
    const slow = later(driver.script("slow"));
    await clock.advance(4_999);
    assert.equal(connections[1]?.gone.aborted, false);
    await clock.advance(1);
    await assert.rejects(slow, code("COMMIT_INDETERMINATE"));
  });

  test("closing waits for a transaction in progress and refuses new work", async () => {
    const { clock, driver } = created((text) => text === "commit" ? { command: "COMMIT" } : {});
    let finish: () => void = () => {};
    const work = driver.transaction(async (session) => {
      await new Promise<void>((resolve) => finish = resolve);
      await session.query("after closing began");
      return "done";
    });
    await clock.advance(0);
    const closing = driver[Symbol.asyncDispose]();
    await assert.rejects(driver.query("select 1"), code("CLOSED"));
    await assert.rejects(driver.transaction(() => Promise.resolve()), code("CLOSED"));
    finish();
    assert.equal(await work, "done");
    await closing;
    assert.equal(clock.pending, 0);
  });

  test("closing does not wait for ever: after the deadline it ends what still runs", async () => {
    const { clock, driver, connections } = created();
    void later(driver.transaction(() => new Promise(() => {})));
    await clock.advance(0);
    const closing = driver[Symbol.asyncDispose]();
    await clock.advance(1_000);
    await closing;
    assert.equal(connections[0]?.gone.aborted, true);
  });
});
