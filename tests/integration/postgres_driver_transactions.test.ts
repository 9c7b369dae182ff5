import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { service } from "../support/require.ts";
import { eventually } from "../support/wait.ts";
import { DRIVERS, type TestDriver, uniqueName } from "./support/postgres_drivers.ts";
import { code, transactionTests } from "./support/postgres_transactions.ts";

const postgres = service("postgres");

describe("transactions", { skip: postgres.skip }, () => {
  for (const kind of DRIVERS) {
    describe(kind.name, () => {
      let created: TestDriver;
      before(() => void (created = kind.create({ url: postgres.url, timeoutMs: 10_000 })));
      transactionTests(kind.name, () => created.driver);
      after(() => created.close()); // after those of the tests

      test(`${kind.name}: transactions are read committed, whatever the server's default`, async () => {
        const [row] = await created.driver.transaction((session) =>
          session.query("show transaction_isolation")
        );
        assert.deepEqual(row, { transaction_isolation: "read committed" });
      });
    });

    test(`${kind.name}: two transactions that lock each other out: one wins, the other has a conflict`, async () => {
      const table = uniqueName("deadlock");
      const { driver, close } = kind.create({ url: postgres.url, timeoutMs: 8_000 });
      try {
        await driver.script(
          `create table ${table} (id int primary key); insert into ${table} values (1), (2)`,
        );
        let entered = 0;
        let both: () => void = () => {};
        const bothEntered = new Promise<void>((resolve) => both = resolve);
        const lockInOrder = (first: number, second: number): Promise<void> =>
          driver.transaction(async (session) => {
            await session.query(`select from ${table} where id = $1 for update`, [first]);
            if (++entered === 2) both();
            await bothEntered;
            await session.query(`select from ${table} where id = $1 for update`, [second]);
          });
        const outcomes = await Promise.allSettled([lockInOrder(1, 2), lockInOrder(2, 1)]);
        const failed = outcomes.filter((outcome) => outcome.status === "rejected");
        assert.equal(failed.length, 1);
        assert.ok(isMillstreamError(failed[0]!.reason, "CONCURRENCY_CONFLICT"), String(failed[0]!.reason));
        assert.equal(failed[0]!.reason.details.sqlState, "40P01");
      } finally {
        await driver.query(`drop table if exists ${table}`);
        await close();
      }
    });

    test(`${kind.name}: with all connections in use, further callers get OVERLOADED at their deadline, and one that is freed in time is used`, async () => {
      const { driver, close } = kind.create({ url: postgres.url, connections: 1, timeoutMs: 1_000 });
      try {
        let finish: () => void = () => {};
        const finished = new Promise<void>((resolve) => finish = resolve);
        const holder = driver.transaction(async (session) => {
          await session.query("select 1");
          await finished;
        });
        const started = performance.now();
        await assert.rejects(driver.transaction((session) => session.query("select 1")), code("OVERLOADED"));
        assert.ok(performance.now() - started < 10_000);
        const nested = driver.transaction((session) => session.query("select 2 as n"));
        finish();
        await holder;
        assert.deepEqual(await nested, [{ n: 2 }]);
      } finally {
        await close();
      }
    });

    test(`${kind.name}: a statement that runs too long is stopped on the server too, and its locks are free`, async () => {
      const table = uniqueName("slow");
      const { driver, close } = kind.create({ url: postgres.url, connections: 1, timeoutMs: 1_500 });
      try {
        await driver.script(`create table ${table} (id int primary key); insert into ${table} values (1)`);
        const work = driver.transaction(async (session) => {
          await session.query(`select from ${table} for update`);
          await session.query("select pg_sleep(30)");
        });
        await assert.rejects(work, code("DEADLINE_EXCEEDED"));
        await driver.transaction((session) => session.query(`select from ${table} for update`));
      } finally {
        await driver.query(`drop table if exists ${table}`);
        await close();
      }
    });

    test(`${kind.name}: closing while busy waits for what runs, refuses what comes, and leaves no connection behind`, async () => {
      const applicationName = uniqueName("closing");
      const { driver, close } = kind.create({ url: postgres.url, timeoutMs: 10_000, applicationName });
      const statement = driver.query("select pg_sleep(0.2)");
      const work = driver.transaction(async (session) => {
        await session.query("select pg_sleep(0.2)");
        return await session.query("select 1 as n");
      });
      const closing = close();
      await assert.rejects(driver.query("select 1"), code("CLOSED"));
      await assert.rejects(driver.transaction(() => Promise.resolve()), code("CLOSED"));
      await assert.rejects(driver.script("select 1"), code("CLOSED"));
      await statement;
      assert.deepEqual(await work, [{ n: 1 }]);
      await closing;
      await driver[Symbol.asyncDispose]();

      const { driver: other, close: closeOther } = kind.create({ url: postgres.url, timeoutMs: 10_000 });
      try {
        const left = "select count(*)::int as n from pg_stat_activity where application_name = $1";
        await eventually(async () => {
          assert.deepEqual(await other.query(left, [applicationName]), [{ n: 0 }]);
        });
      } finally {
        await closeOther();
      }
    });
  }
});
