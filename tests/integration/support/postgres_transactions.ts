/**
 * What every driver makes of transactions, whether it has one session or many.
 *
 * @module
 */
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { isMillstreamError } from "../../../src/core/errors.ts";
import type { SqlDriver, SqlSession } from "../../../src/ports/sql.ts";
import { uniqueName } from "./postgres_drivers.ts";

/** Matches an error by its code. */
export const code = (expected: string) => (error: unknown): boolean =>
  isMillstreamError(error, expected as never);

/** Registers the tests. The driver is there once the hooks that were registered before have run. */
export function transactionTests(name: string, driver: () => SqlDriver): void {
  const table = uniqueName("work");

  async function ids(): Promise<unknown[]> {
    return (await driver().query(`select id from ${table} order by id`)).map((
      row,
    ) => row.id);
  }
  const insert = (session: SqlSession, id: number): Promise<unknown> =>
    session.query(`insert into ${table} (id) values ($1)`, [id]);

  before(async () => {
    await driver().query(
      `create table ${table} (id int primary key deferrable initially immediate, n int default 0)`,
    );
  });
  after(async () => void await driver().query(`drop table ${table}`));

  test(`${name}: what the work returns comes back, and what it wrote is there`, async () => {
    const result = await driver().transaction(async (session) => {
      await insert(session, 1);
      return await session.query("select 1 as one");
    });
    assert.deepEqual(result, [{ one: 1 }]);
    assert.deepEqual(await ids(), [1]);
    await driver().query(`delete from ${table}`);
  });

  test(`${name}: what the work throws comes back unchanged, and what it wrote is not there`, async () => {
    for (const thrown of [new Error("no"), "a string", undefined]) {
      const work = driver().transaction(async (session) => {
        await insert(session, 1);
        throw thrown;
      });
      assert.equal(
        await work.then(() => "committed", (error: unknown) => error),
        thrown,
      );
    }
    assert.deepEqual(await ids(), []);
  });

  test(`${name}: a work that throws before it awaits anything is rolled back as well`, async () => {
    const work = driver().transaction(() => {
      throw new Error("at once");
    });
    await assert.rejects(work, /at once/);
    assert.deepEqual(await driver().query("select 1 as n"), [{ n: 1 }]);
  });

  test(`${name}: a failed statement that nobody looked at fails the transaction, with its reason`, async () => {
    const work = driver().transaction(async (session) => {
      await insert(session, 1);
      await insert(session, 1).catch(() => {});
    });
    await assert.rejects(work, (error: unknown) => {
      assert.ok(isMillstreamError(error, "REJECTED"), String(error));
      return error.details.sqlState === "23505" &&
        error.details.constraint === `${table}_pkey`;
    });
    assert.deepEqual(await ids(), []);
  });

  test(`${name}: an error inside a savepoint does not harm what was done before`, async () => {
    await driver().transaction(async (session) => {
      await insert(session, 1);
      await session.query("savepoint s");
      await assert.rejects(insert(session, 1), code("REJECTED"));
      await session.query("rollback to savepoint s");
      await insert(session, 2);
    });
    assert.deepEqual(await ids(), [1, 2]);
    await driver().query(`delete from ${table}`);
  });

  test(`${name}: a COMMIT that the server refuses is no commit`, async () => {
    const work = driver().transaction(async (session) => {
      await session.query("set constraints all deferred");
      await insert(session, 1);
      await insert(session, 1);
    });
    await assert.rejects(work, (error: unknown) => {
      return isMillstreamError(error, "REJECTED") &&
        error.details.sqlState === "23505";
    });
    assert.deepEqual(await ids(), []);
  });

  test(`${name}: statements that run side by side in one transaction run in their order, all in it`, async () => {
    const work = driver().transaction(async (session) => {
      await Promise.all([1, 2, 3, 4, 5].map((id) => insert(session, id)));
      throw new Error("no");
    });
    await assert.rejects(work, /no/);
    assert.deepEqual(await ids(), []);
  });

  test(`${name}: a statement that comes after the end of its transaction is refused`, async () => {
    let kept: SqlSession | undefined;
    await driver().transaction((session) => {
      kept = session;
      return Promise.resolve();
    });
    await assert.rejects(insert(kept!, 1), code("CLOSED"));
    const failed = driver().transaction((session) => {
      kept = session;
      return Promise.reject(new Error("no"));
    });
    await assert.rejects(failed, /no/);
    await assert.rejects(insert(kept!, 1), code("CLOSED"));
    assert.deepEqual(await ids(), []);
  });

  test(`${name}: BEGIN as a statement is refused, and does not catch what comes after`, async () => {
    for (const text of ["begin", "start transaction"]) {
      await assert.rejects(driver().query(text), code("REJECTED"));
    }
    await insert(driver(), 1);
    await assert.rejects(driver().query("select 1 / 0"), code("REJECTED"));
    assert.deepEqual(await ids(), [1]);
    await driver().query(`delete from ${table}`);
  });

  test(`${name}: COMMIT as a statement inside a transaction ends it with an error, and nothing after it is written`, async () => {
    const work = driver().transaction(async (session) => {
      await insert(session, 1);
      await session.query("commit").catch(() => {});
      await insert(session, 2).catch(() => {});
    });
    await assert.rejects(work, (error: unknown) => isMillstreamError(error, "REJECTED"));
    assert.deepEqual((await ids()).includes(2), false);
    await driver().query(`delete from ${table}`);
  });

  test(`${name}: many transactions at once all count`, async () => {
    await driver().query(`insert into ${table} (id) values (1)`);
    const increments = Array.from(
      { length: 50 },
      () =>
        driver().transaction(async (session) => {
          const [row] = await session.query<{ n: number }>(
            `select n from ${table} where id = 1 for update`,
          );
          await session.query(`update ${table} set n = $1 where id = 1`, [
            row!.n + 1,
          ]);
        }),
    );
    await Promise.all(increments);
    assert.deepEqual(await driver().query(`select n from ${table}`), [{
      n: 50,
    }]);
    await driver().query(`delete from ${table}`);
  });
}
