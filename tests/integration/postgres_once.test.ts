import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import * as v from "valibot";
import { event, millstream, query } from "../../mod.ts";
import { runOnce } from "../../src/idempotency/idempotent.ts";
import { postgres, postgresJsDriver, type PostgresStore } from "../../src/postgres/mod.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

describe("idempotent operations on postgres", { skip: server.skip }, () => {
  const schema = uniqueSchema("once");
  after(() => dropSchema(schema));

  test("thirty callers in three processes' stores at once: one runs, all get its result, and another payload is refused", async () => {
    const stores = await Promise.all([open(), open(), open()]);
    let runs = 0;
    const call = (n: number) =>
      runOnce(stores[n % 3]!.idempotency, { key: "k", fingerprint: "f", waitMs: 60_000 }, async () => {
        runs++;
        await stores[0]!.sql`select pg_sleep(0.2)`;
        return `by ${n}`;
      });
    const outcomes = await Promise.all(Array.from({ length: 30 }, (_, n) => call(n)));
    assert.equal(runs, 1);
    assert.equal(new Set(outcomes.map(({ result }) => result)).size, 1);
    assert.equal(outcomes.filter(({ replayed }) => !replayed).length, 1);
    const other = runOnce(
      stores[1]!.idempotency,
      { key: "k", fingerprint: "g" },
      () => assert.fail("it ran"),
    );
    await assert.rejects(other, { code: "IDEMPOTENCY_KEY_REUSED" });
    for (const store of stores) await store[Symbol.asyncDispose]();
  });

  test("a holder that is silent past its lease, then taken over, then comes back: its transaction rolls back, one effect stays", async () => {
    // Interleaving: first claims and stalls; second claims with a higher epoch, writes and commits; first writes and commits.
    const [first, second] = await Promise.all([open(), open()]);
    await first.sql`create table ${first.sql(`${schema}.effects`)} (who text)`;
    const claimed = await first.idempotency.begin("crashed", "f", 200);
    assert.ok(claimed.state === "started");
    const taken = await runOnce(
      second.idempotency,
      { key: "crashed", fingerprint: "f", waitMs: 60_000 },
      (_, claim) =>
        second.transaction(async ({ sql, idempotency }) => {
          await sql`insert into ${sql(`${schema}.effects`)} values ('second')`;
          await claim.complete(idempotency, "done by second");
          return "done by second";
        }),
    );
    assert.equal(taken.replayed, false);
    const late = first.transaction(async ({ sql, idempotency }) => {
      await sql`insert into ${sql(`${schema}.effects`)} values ('first')`;
      await idempotency.complete("crashed", claimed.epoch, "done by first", 60_000);
    });
    await assert.rejects(late, { code: "LEASE_LOST" });
    assert.deepEqual(await first.sql`select who from ${first.sql(`${schema}.effects`)}`, [{ who: "second" }]);
    const replay = await runOnce(
      first.idempotency,
      { key: "crashed", fingerprint: "f" },
      () => assert.fail("it ran"),
    );
    assert.deepEqual(replay, { result: "done by second", replayed: true });
    for (const store of [first, second]) await store[Symbol.asyncDispose]();
  });

  async function open(): Promise<PostgresStore> {
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    return store;
  }
});

describe(
  "an application with one connection for statements and one for transactions",
  { skip: server.skip },
  () => {
    const schema = uniqueSchema("narrow");
    after(() => dropSchema(schema));

    test("handlers that ask and append inside their transactions, 20 at a time: none waits for itself", async () => {
      const Ping = event("ping.sent", v.object({ n: v.number() }));
      const Pong = event("pong.sent", v.object({ n: v.number() }));
      const Count = query("pings.count", v.object({}));
      const store = postgres({
        driver: postgresJsDriver({ url: server.url, max: 1, transactions: 1, timeoutMs: 30_000 }),
        schema,
      });
      const app = millstream({ store });
      const seen = new Set<number>();
      app.answer(Count, async (_, { sql }) => await sql`select 1 as n`);
      app.on(Ping, { group: "g", concurrency: 20 }, async ({ data }, ctx) => {
        await ctx.sql`select 1`; // the one transaction is his from here on
        await ctx.ask(Count, {});
        await store.inbox.seen("g", ["x"]);
        await ctx.append(`s-${data.n}`, [Pong({ n: data.n })]);
      });
      app.on(Pong, { group: "g" }, ({ data }) => void seen.add(data.n));
      await app.start();
      await Promise.all(Array.from({ length: 40 }, (_, n) => app.publish(Ping, { n })));
      await eventually(() => assert.equal(seen.size, 40), { withinMs: 60_000 });
      await app.close();
    });
  },
);
