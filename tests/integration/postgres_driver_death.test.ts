import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { SqlDriver, SqlSession } from "../../src/ports/sql.ts";
import { service } from "../support/require.ts";
import { eventually, pause, within } from "../support/wait.ts";
import { collectStrayErrors, DRIVERS, type TestDriver, uniqueName } from "./support/postgres_drivers.ts";
import { code } from "./support/postgres_transactions.ts";

const postgres = service("postgres");
const TIMEOUT_MS = 3_000;
/** By when a promise must have settled: a wait for a connection, and each statement, take a deadline at most. */
const PATIENCE_MS = 10 * TIMEOUT_MS;
const KILLS = 100;

for (const kind of DRIVERS) {
  describe(`backends of ${kind.name} that die`, { skip: postgres.skip }, () => {
    const applicationName = uniqueName("dying");
    const table = uniqueName("death");
    let stray: ReturnType<typeof collectStrayErrors>;
    let admin: TestDriver;

    before(async () => {
      stray = collectStrayErrors();
      admin = kind.create({
        url: postgres.url,
        connections: 1,
        timeoutMs: 10_000,
      });
      await admin.driver.script(`
        create table ${table} (who text);
        create table ${table}_halves (id text, half int);
        create table ${table}_singles (id text);
        create table ${table}_counters (id int primary key, n int);
        insert into ${table}_counters select id, 0 from generate_series(0, 2) id`);
    });

    after(async () => {
      stray.stop();
      await admin.driver.script(
        `drop table ${table}, ${table}_halves, ${table}_singles, ${table}_counters`,
      );
      await admin.close();
    });

    function start(connections: number): TestDriver {
      return kind.create({
        url: postgres.url,
        connections,
        timeoutMs: TIMEOUT_MS,
        applicationName,
      });
    }

    async function pidOf(session: SqlSession): Promise<number> {
      const [row] = await session.query<{ pid: number }>(
        "select pg_backend_pid() as pid",
      );
      return row!.pid;
    }

    async function kill(pid: number): Promise<void> {
      await admin.driver.query("select pg_terminate_backend($1)", [pid]);
      await eventually(async () => {
        return (await admin.driver.query(
          "select from pg_stat_activity where pid = $1",
          [pid],
        )).length === 0;
      });
    }

    async function whoIsIn(): Promise<unknown[]> {
      return (await admin.driver.query(`select who from ${table} order by who`))
        .map((row) => row.who);
    }

    test("killed while the work awaits something else: the next statement, late ones and the commit fail, nothing is written", async () => {
      const { driver, close } = start(2);
      let kept: SqlSession | undefined;
      const work = driver.transaction(async (session) => {
        kept = session;
        await session.query(`insert into ${table} values ('before')`);
        await kill(await pidOf(session));
        await assert.rejects(
          session.query(`insert into ${table} values ('after')`),
          code("UNAVAILABLE"),
        );
        await assert.rejects(
          session.query(`insert into ${table} values ('again')`),
          code("UNAVAILABLE"),
        );
      });
      await assert.rejects(within(PATIENCE_MS, work), code("UNAVAILABLE"));
      await assert.rejects(
        kept!.query(`insert into ${table} values ('late')`),
        (error) => isMillstreamError(error),
      );
      assert.deepEqual(await whoIsIn(), []);
      assert.deepEqual(await driver.query("select 1 as n"), [{ n: 1 }]);
      await close();
      assert.deepEqual(stray.errors, []);
    });

    test("killed while a statement runs: a transaction is rolled back, a statement of its own may have been executed", async () => {
      const { driver, close } = start(2);
      const sleeping = async (
        session: SqlSession,
        tell: (pid: number) => void,
      ): Promise<void> => {
        const done = session.query("select pg_backend_pid() as pid");
        tell((await done)[0]!.pid as number);
        await session.query("select pg_sleep(30)");
      };
      let pid = 0;
      const work = driver.transaction((session) => sleeping(session, (found) => pid = found));
      await eventually(() => pid > 0);
      const inTransaction = assert.rejects(
        within(PATIENCE_MS, work),
        code("UNAVAILABLE"),
      );
      await kill(pid);
      await inTransaction;

      const single = driver.query(
        `select pg_sleep(30) /* ${applicationName} */`,
      );
      const alone = assert.rejects(
        within(PATIENCE_MS, single),
        code("COMMIT_INDETERMINATE"),
      );
      const running =
        `select pid from pg_stat_activity where query like 'select pg_sleep(30) /* ${applicationName}%'`;
      await kill(
        await eventually(async () => (await admin.driver.query<{ pid: number }>(running))[0]?.pid ?? false),
      );
      await alone;
      assert.deepEqual(await driver.query("select 1 as n"), [{ n: 1 }]);
      await close();
      assert.deepEqual(stray.errors, []);
    });

    test("killed while it is idle: the next call gets another one", async () => {
      const { driver, close } = start(1);
      const [statements, transactions] = [
        await pidOf(driver),
        await driver.transaction(pidOf),
      ];
      await kill(statements);
      await kill(transactions);
      // What the server said last arrives in no particular order with respect to the answers on other connections.
      await eventually(async () => {
        assert.notEqual(await pidOf(driver), statements);
        assert.notEqual(await driver.transaction(pidOf), transactions);
        return true;
      });
      await close();
      assert.deepEqual(stray.errors, []);
    });

    test("A's backend dies while A awaits; B begins on its replacement; A's late statement runs; B throws: nothing is committed", async () => {
      const { driver, close } = start(1);
      let wakeA: () => void = () => {};
      const aMayGoOn = new Promise<void>((resolve) => wakeA = resolve);
      let aPid = 0;
      const a = driver.transaction(async (session) => {
        aPid = await pidOf(session);
        await session.query(`insert into ${table} values ('A')`);
        await aMayGoOn;
        await session.query(`insert into ${table} values ('A after death')`);
      });
      const aFails = assert.rejects(
        within(PATIENCE_MS, a),
        code("UNAVAILABLE"),
      );
      await eventually(() => aPid > 0);
      await kill(aPid);

      const b = driver.transaction(async (session) => {
        await session.query(`insert into ${table} values ('B')`);
        wakeA();
        await aFails;
        await session.query(`insert into ${table} values ('B again')`);
        throw new Error("B throws");
      });
      await assert.rejects(within(PATIENCE_MS, b), /B throws/);
      assert.deepEqual(await whoIsIn(), []);
      await close();
      assert.deepEqual(stray.errors, []);
    });

    test("A's backend dies with several statements of A in line; none of them runs on the replacement", async () => {
      const { driver, close } = start(1);
      const a = driver.transaction(async (session) => {
        const pid = await pidOf(session);
        const all = Promise.allSettled([
          session.query("select pg_sleep(30)"),
          ...[1, 2, 3].map((n) => session.query(`insert into ${table} values ('A ${n}')`)),
        ]);
        await kill(pid);
        const outcomes = await all;
        assert.ok(outcomes.every((outcome) => outcome.status === "rejected"));
      });
      await assert.rejects(within(PATIENCE_MS, a), code("UNAVAILABLE"));
      await driver.transaction((session) => session.query("select 1"));
      assert.deepEqual(await whoIsIn(), []);
      await close();
      assert.deepEqual(stray.errors, []);
    });

    test(`${KILLS} backends killed under load: all settles, no half transaction, every commit counted, and the driver goes on`, async () => {
      const { driver, close } = start(4);
      const ledger = openLedger();
      let stopped = false;
      const workers = [
        ...[0, 1, 2, 3, 4, 5].map((worker) => repeat(() => doubleEntry(driver, ledger, worker))),
        ...[0, 1].map(() => repeat(() => single(driver, ledger))),
      ];

      async function repeat(once: () => Promise<void>): Promise<void> {
        while (!stopped) await once();
      }

      let killed = 0;
      while (killed < KILLS) {
        const rows = await admin.driver.query(
          `select pg_terminate_backend(pid) from pg_stat_activity
           where application_name = $1 order by random() limit 1`,
          [applicationName],
        );
        killed += rows.length;
        await pause(10);
      }
      stopped = true;
      await within(2 * PATIENCE_MS, Promise.all(workers));
      await checkLedger(ledger);
      assert.ok(
        ledger.committed.size > 20,
        `${ledger.committed.size} committed`,
      );

      await eventually(async () => {
        for (let call = 0; call < 20; call++) {
          await driver.query("select 1");
          await driver.transaction((session) => session.query("select 1"));
        }
      });
      const connected = "select count(*)::int as n from pg_stat_activity where application_name = $1";
      await eventually(async () => {
        const [row] = await admin.driver.query<{ n: number }>(connected, [applicationName]);
        return row!.n <= 8;
      });
      await within(PATIENCE_MS, close());
      assert.deepEqual(stray.errors, []);
    });

    /** Two rows and a counter, all or nothing. */
    async function doubleEntry(
      driver: SqlDriver,
      ledger: Ledger,
      worker: number,
    ): Promise<void> {
      const id = `t${ledger.next++}`;
      const work = driver.transaction(async (session) => {
        await session.query(`insert into ${table}_halves values ($1, 1)`, [id]);
        await session.query(
          `update ${table}_counters set n = n + 1 where id = $1`,
          [worker % 3],
        );
        await session.query("select 1");
        await session.query(`insert into ${table}_halves values ($1, 2)`, [id]);
      });
      await ledger.enter(id, work);
    }

    async function single(driver: SqlDriver, ledger: Ledger): Promise<void> {
      const id = `s${ledger.next++}`;
      await ledger.enter(
        id,
        driver.query(`insert into ${table}_singles values ($1)`, [id]),
      );
    }

    async function checkLedger(
      { committed, failed, unknown }: Ledger,
    ): Promise<void> {
      const halves = await admin.driver.query<{ id: string; n: number }>(
        `select id, count(*)::int as n from ${table}_halves group by id`,
      );
      assert.deepEqual(
        halves.filter((row) => row.n !== 2),
        [],
        "half transactions",
      );
      const [counted] = await admin.driver.query(
        `select sum(n)::int as n from ${table}_counters`,
      );
      assert.deepEqual(
        counted,
        { n: halves.length },
        "the counter and the rows differ",
      );

      const singles = await admin.driver.query<{ id: string }>(
        `select id from ${table}_singles`,
      );
      const written = [...halves, ...singles].map((row) => row.id);
      assert.equal(
        new Set(written).size,
        written.length,
        "something was written twice",
      );
      const there = new Set(written);
      assert.deepEqual(
        [...committed].filter((id) => !there.has(id)),
        [],
        "lost",
      );
      assert.deepEqual(
        [...failed].filter((id) => there.has(id)),
        [],
        "failed, and yet written",
      );
      assert.deepEqual(
        written.filter((id) => !committed.has(id) && !unknown.has(id)),
        [],
        "unheard of",
      );
    }
  });
}

/** What became of each piece of work, as far as its caller was told. */
interface Ledger {
  next: number;
  readonly committed: Set<string>;
  readonly failed: Set<string>;
  readonly unknown: Set<string>;
  enter(id: string, work: Promise<unknown>): Promise<void>;
}

function openLedger(): Ledger {
  const ledger: Ledger = {
    next: 0,
    committed: new Set(),
    failed: new Set(),
    unknown: new Set(),
    async enter(id, work) {
      try {
        await within(PATIENCE_MS, work, `${id} hangs`);
        ledger.committed.add(id);
      } catch (error) {
        assert.ok(isMillstreamError(error), String(error));
        const kinds = {
          UNAVAILABLE: ledger.failed,
          OVERLOADED: ledger.failed,
          COMMIT_INDETERMINATE: ledger.unknown,
        };
        const kind = kinds[error.code as keyof typeof kinds];
        assert.ok(kind, `${error.code}: ${error.message}`);
        kind.add(id);
        await pause(5);
      }
    },
  };
  return ledger;
}
