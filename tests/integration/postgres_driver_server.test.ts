import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { service } from "../support/require.ts";
import { type PrivateServer, startPostgres } from "../support/servers.ts";
import { failsInTime, recovers, timely, TIMEOUT_MS } from "./support/postgres_deadlines.ts";
import { collectStrayErrors, DRIVERS } from "./support/postgres_drivers.ts";
import { code } from "./support/postgres_transactions.ts";

const server = service("postgres-server");

describe("a server that stands still or dies", { skip: server.skip }, () => {
  let own: PrivateServer;
  let stray: ReturnType<typeof collectStrayErrors>;

  before(async () => {
    stray = collectStrayErrors();
    own = await startPostgres();
  });
  after(async () => {
    stray.stop();
    await own.stop();
  });

  for (const kind of DRIVERS) {
    test(`${kind.name}: frozen by SIGSTOP: each call settles by its deadline, and after SIGCONT the driver works`, async () => {
      const setup = {
        url: own.url,
        connections: 2,
        timeoutMs: TIMEOUT_MS,
        connectTimeoutMs: TIMEOUT_MS,
      };
      const { driver, close } = kind.create(setup);
      await recovers(driver);
      await driver.query("create table if not exists frozen (id text)");
      try {
        const work = driver.transaction(async (session) => {
          await session.query("insert into frozen values ('in ice')");
          own.sigstop();
          await timely(session.query("select 1"));
        });
        await assert.rejects(work, code("DEADLINE_EXCEEDED"));
        const calls = Array.from(
          { length: 6 },
          (_, call) =>
            failsInTime(
              call % 2
                ? driver.query("select 1")
                : driver.transaction((session) => session.query("select 1")),
            ),
        );
        await Promise.all(calls);
      } finally {
        own.sigcont();
      }
      await recovers(driver);
      assert.deepEqual(await driver.query("select * from frozen"), []);
      await close();
      assert.deepEqual(stray.errors, []);
    });
  }

  for (const kind of DRIVERS) {
    test(`${kind.name}: killed and started again: the driver works with the new one`, async () => {
      const setup = {
        url: own.url,
        connections: 2,
        timeoutMs: TIMEOUT_MS,
        connectTimeoutMs: TIMEOUT_MS,
      };
      const { driver, close } = kind.create(setup);
      await recovers(driver);
      const work = driver.transaction(async (session) => {
        await session.query("select 1");
        await own.kill9();
        await session.query("select 1");
      });
      await assert.rejects(work, code("UNAVAILABLE"));
      await failsInTime(driver.query("select 1"));
      await own.restart();
      await recovers(driver);
      await close();
      assert.deepEqual(stray.errors, []);
    });
  }
});
