import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import type { SqlDriver } from "../../src/ports/sql.ts";
import { type Proxy, startProxy } from "../support/proxy.ts";
import { service } from "../support/require.ts";
import { eventually } from "../support/wait.ts";
import { failsInTime, recovers, timely, TIMEOUT_MS } from "./support/postgres_deadlines.ts";
import {
  addressOf,
  behind,
  collectStrayErrors,
  DRIVERS,
  type TestDriver,
  uniqueName,
} from "./support/postgres_drivers.ts";
import { code } from "./support/postgres_transactions.ts";

const postgres = service("postgres");

for (const kind of DRIVERS) {
  describe(`${kind.name} behind a bad network`, { skip: postgres.skip }, () => {
    const table = uniqueName("network");
    let proxy: Proxy;
    let stray: ReturnType<typeof collectStrayErrors>;
    let admin: TestDriver;
    let tested: TestDriver;
    let driver: SqlDriver;

    before(async () => {
      stray = collectStrayErrors();
      const { host, port } = addressOf(postgres.url);
      proxy = await startProxy(port, { host });
      admin = kind.create({
        url: postgres.url,
        connections: 1,
        timeoutMs: 10_000,
      });
      await admin.driver.query(`create table ${table} (id text)`);
      const url = behind(postgres.url, proxy.port);
      tested = kind.create({
        url,
        connections: 2,
        timeoutMs: TIMEOUT_MS,
        connectTimeoutMs: TIMEOUT_MS,
      });
      driver = tested.driver;
    });

    after(async () => {
      await tested.close();
      await proxy[Symbol.asyncDispose]();
      await admin.driver.query(`drop table ${table}`);
      await admin.close();
      stray.stop();
    });

    afterEach(async () => await proxy.set("pass"));

    async function ids(): Promise<unknown[]> {
      return (await admin.driver.query(`select id from ${table} order by id`))
        .map((row) => row.id);
    }

    async function clean(): Promise<void> {
      await proxy.set("pass");
      await recovers(driver);
      await admin.driver.query(`delete from ${table}`);
      assert.deepEqual(stray.errors, []);
    }

    test("a black hole: what runs and what comes settles by its deadline, the transaction is rolled back, and no dead connection stays in the pool", async () => {
      await recovers(driver);
      const work = driver.transaction(async (session) => {
        await session.query(`insert into ${table} values ('in the dark')`);
        await proxy.set("blackhole");
        await assert.rejects(
          timely(session.query("select 1")),
          code("DEADLINE_EXCEEDED"),
        );
        await assert.rejects(
          timely(session.query("select 1")),
          code("UNAVAILABLE"),
        );
      });
      await assert.rejects(work, code("DEADLINE_EXCEEDED"));
      for (let call = 0; call < 3; call++) {
        await Promise.all([
          failsInTime(driver.query("select 1")),
          failsInTime(
            driver.transaction((session) => session.query("select 1")),
          ),
        ]);
      }
      await proxy.set("pass");
      await recovers(driver);
      assert.deepEqual(await ids(), []);
      await clean();
    });

    test("a black hole as the server's COMMIT is on its way: the outcome is said to be unknown", async () => {
      const work = driver.transaction(async (session) => {
        await session.query(`insert into ${table} values ('committed')`);
        void proxy.setOn("commit", "dropReplies");
      });
      await assert.rejects(timely(work, 2), code("COMMIT_INDETERMINATE"));
      await eventually(async () => assert.deepEqual(await ids(), ["committed"]));
      await clean();
    });

    test("a reset before COMMIT arrives: the outcome is said to be unknown, and nothing is written", async () => {
      const work = driver.transaction(async (session) => {
        await session.query(`insert into ${table} values ('lost')`);
        void proxy.setOn("commit", "reset");
      });
      await assert.rejects(timely(work, 2), code("COMMIT_INDETERMINATE"));
      assert.deepEqual(await ids(), []);
      await clean();
    });

    test("a statement whose reply is lost: the outcome is said to be unknown; it was executed, once", async () => {
      // Time enough for the server: at the deadline, the client asks it to stop.
      const url = behind(postgres.url, proxy.port);
      const patient = kind.create({
        url,
        connections: 1,
        timeoutMs: 3_000,
        connectTimeoutMs: TIMEOUT_MS,
      });
      void proxy.setOn("precious", "dropReplies");
      const single = patient.driver.query(`insert into ${table} values ($1)`, [
        "precious",
      ]);
      await assert.rejects(timely(single, 4), code("COMMIT_INDETERMINATE"));
      await proxy.set("pass");
      await recovers(driver);
      assert.deepEqual(await ids(), ["precious"]);
      await patient.close();
      await clean();
    });

    test("connections that are reset: calls fail at once, and work as soon as it is over", async () => {
      await recovers(driver);
      const work = driver.transaction(async (session) => {
        await session.query(`insert into ${table} values ('reset')`);
        await proxy.set("reset");
        await session.query("select 1");
      });
      await assert.rejects(timely(work, 2), code("UNAVAILABLE"));
      await failsInTime(driver.query("select 1"));
      assert.deepEqual(await ids(), []);
      await clean();
    });

    test("a server that nobody listens for: calls fail at once with UNAVAILABLE", async () => {
      await proxy.set("refuse");
      await eventually(async () => {
        await assert.rejects(
          timely(driver.query("select 1")),
          code("UNAVAILABLE"),
        );
        await assert.rejects(
          timely(driver.transaction((session) => session.query("select 1"))),
          code("UNAVAILABLE"),
        );
        return true;
      });
      await clean();
    });

    test("a server that accepts connections and hangs up at once: calls fail, and it is not tried without pause", async () => {
      await proxy.set("hangUp");
      const before = proxy.accepted;
      const started = performance.now();
      let calls = 0;
      while (performance.now() - started < 600) {
        calls++;
        await failsInTime(driver.query("select 1"));
        await failsInTime(
          driver.transaction((session) => session.query("select 1")),
        );
      }
      // pg tries once for each call.
      const seconds = (performance.now() - started) / 1_000;
      assert.ok(
        proxy.accepted - before < 60 + 60 * seconds + 3 * calls * Number(kind.name === "pg"),
        `${proxy.accepted - before} attempts`,
      );
      await clean();
    });
  });
}
