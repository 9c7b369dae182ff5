import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { pgDriver } from "../../src/postgres/drivers/pg.ts";
import { pgliteDriver } from "../../src/postgres/drivers/pglite.ts";
import { postgresJsDriver } from "../../src/postgres/drivers/postgres_js.ts";

function refuses(what: string, create: () => unknown): void {
  test(`refuses ${what}, without repeating it`, () => {
    assert.throws(create, (error: unknown) => {
      assert.ok(isMillstreamError(error, "INVALID_ARGUMENT"), String(error));
      assert.equal(error.cause, undefined);
      return !error.message.includes("secret");
    });
  });
}

const url = "postgres://user:secret@127.0.0.1:1/db";

describe("options of the drivers", () => {
  refuses("an address that is none", () => postgresJsDriver({ url: "secret" }));
  refuses("an address of something else", () => postgresJsDriver({ url: "redis://:secret@127.0.0.1:6379" }));
  refuses(
    "an address that cannot be read",
    () => postgresJsDriver({ url: "postgres://user:secret@host:port/db" }),
  );
  refuses("a missing address", () => postgresJsDriver({} as never));
  refuses("no connections", () => postgresJsDriver({ url, max: 0 }));
  refuses("half a connection", () => postgresJsDriver({ url, transactions: 1.5 }));
  refuses("no time", () => postgresJsDriver({ url, timeoutMs: 0 }));
  refuses("no time to connect", () => postgresJsDriver({ url, connectTimeoutMs: Number.NaN }));
  refuses("something that is no pool", () => pgDriver({ pool: {} as never }));
  refuses("a missing pool", () => pgDriver({} as never));
  refuses("something that is no PGlite", () => pgliteDriver({ pglite: {} as never }));

  test("creating a driver opens no connection, and closing an unused one ends at once", async () => {
    const driver = postgresJsDriver({ url: "postgres://user@127.0.0.1:1,127.0.0.1:2/db" });
    await driver[Symbol.asyncDispose]();
    await assert.rejects(driver.query("select 1"), (error: unknown) => isMillstreamError(error, "CLOSED"));
  });

  test("a server that is not there is UNAVAILABLE, at once, without the password", async () => {
    const driver = postgresJsDriver({ url });
    await assert.rejects(driver.query("select 1"), (error: unknown) => {
      return isMillstreamError(error, "UNAVAILABLE") && !error.message.includes("secret");
    });
    await driver[Symbol.asyncDispose]();
  });
});
