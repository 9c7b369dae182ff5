import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { migrations, postgres } from "../../src/postgres/mod.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

describe("migrations", { skip: server.skip }, () => {
  const schemas = [
    uniqueSchema("migrate"),
    uniqueSchema("migrate"),
    uniqueSchema("migrate"),
  ] as const;
  after(async () => {
    for (const schema of schemas) await dropSchema(schema);
  });

  test("six processes that start at once on an empty database: the schema is there once, and all can use it", async () => {
    const stores = Array.from(
      { length: 6 },
      () => postgres({ driver: openDriver(), schema: schemas[0] }),
    );
    await Promise.all(stores.map((store) => store.start()));
    const [first] = stores;
    assert.ok(first);
    const applied = await first.sql`select number from ${first.sql(schemas[0])}.migrations order by number`;
    assert.ok(applied.length >= 3, `${applied.length} migrations`);
    assert.deepEqual(applied, applied.map((_, index) => ({ number: index + 1 })));
    for (const [n, store] of stores.entries()) {
      assert.equal(await store.inbox.record("group", `m-${n}`), true);
      await store[Symbol.asyncDispose]();
    }
  });

  test("without the right to migrate, a schema that lacks something is refused, and the printed script makes it whole", async () => {
    const driver = openDriver();
    const store = postgres({ driver, schema: schemas[1], migrate: false });
    await assert.rejects(
      store.start(),
      (error) => isMillstreamError(error, "UNAVAILABLE"),
    );
    const script = migrations(schemas[1]);
    await driver.script(script);
    await store.start();
    assert.equal(await store.inbox.record("group", "m"), true);
    await driver.script(script); // again: changes nothing
    assert.equal(await store.inbox.record("group", "m"), false);
    await store[Symbol.asyncDispose]();
  });

  test("a migration that fails leaves nothing behind, and a later start succeeds", async () => {
    const driver = openDriver();
    await driver.script(
      `create schema ${schemas[2]}; create view ${schemas[2]}.deliveries as select 1 as id`,
    );
    const store = postgres({ driver, schema: schemas[2] });
    await assert.rejects(store.start());
    await driver.script(`drop view ${schemas[2]}.deliveries`);
    assert.deepEqual(
      await driver.query(
        `select to_regclass('${schemas[2]}.events')::text as found`,
      ),
      [{
        found: null,
      }],
    );
    await store.start();
    assert.equal(await store.inbox.record("group", "m"), true);
    await store[Symbol.asyncDispose]();
  });
});
