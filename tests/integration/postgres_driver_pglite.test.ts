import { PGlite } from "@electric-sql/pglite";
import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { SqlDriver } from "../../src/ports/sql.ts";
import { pgliteDriver } from "../../src/postgres/drivers/pglite.ts";
import { code, transactionTests } from "./support/postgres_transactions.ts";

let pglite: PGlite;
let driver: SqlDriver;
let impatient: SqlDriver;

describe("transactions on PGlite", () => {
  before(async () => {
    pglite = new PGlite();
    driver = pgliteDriver({ pglite, timeoutMs: 20_000 });
    await driver.query("select 1");
    impatient = pgliteDriver({ pglite, timeoutMs: 300 });
  });
  transactionTests("pglite", () => driver);

  test("pglite: calls run one after the other, in the order in which they came", async () => {
    const order: string[] = [];
    let finish: () => void = () => {};
    const finished = new Promise<void>((resolve) => finish = resolve);
    const first = driver.transaction(async (session) => {
      await finished;
      await session.query("select 1");
      order.push("transaction");
    });
    const second = driver.query("select 2").then(() => order.push("statement"));
    const third = driver.transaction((session) => session.query("select 3")).then(() =>
      order.push("another")
    );
    finish();
    await Promise.all([first, second, third]);
    assert.deepEqual(order, ["transaction", "statement", "another"]);
  });

  test("pglite: a call on the driver from inside its own transaction says so instead of waiting for ever, and never runs", async () => {
    const work = impatient.transaction(async (session) => {
      await session.query("create table inside (a int)");
      await impatient.query("create table outside (a int)");
    });
    await assert.rejects(work, (error: unknown) => {
      assert.ok(isMillstreamError(error, "DEADLINE_EXCEEDED"), String(error));
      return /one session/.test(error.message);
    });
    const [row] = await impatient.query(
      "select to_regclass('inside') as inside, to_regclass('outside') as outside",
    );
    assert.deepEqual(row, { inside: null, outside: null });
  });

  test("pglite: a transaction that PGlite begins too late, since the application uses it directly, does nothing", async () => {
    let finish: () => void = () => {};
    const finished = new Promise<void>((resolve) => finish = resolve);
    const direct = pglite.transaction(() => finished);
    let ran = false;
    const work = impatient.transaction(() => {
      ran = true;
      return Promise.resolve();
    });
    await assert.rejects(work, code("DEADLINE_EXCEEDED"));
    finish();
    await direct;
    assert.deepEqual(await impatient.query("select 1 as n"), [{ n: 1 }]);
    assert.equal(ran, false);
  });
});

describe("the end of a driver on PGlite", () => {
  test("pglite: a closed driver and a closed database refuse calls", async () => {
    const closed = pgliteDriver({ pglite });
    await closed[Symbol.asyncDispose]();
    await assert.rejects(closed.query("select 1"), code("CLOSED"));
    await assert.rejects(closed.transaction(() => Promise.resolve()), code("CLOSED"));
    await pglite.close();
    await assert.rejects(driver.query("select 1"), code("UNAVAILABLE"));
    await assert.rejects(driver.transaction(() => Promise.resolve()), code("UNAVAILABLE"));
    await assert.rejects(driver.script("select 1"), code("UNAVAILABLE"));
  });
});
