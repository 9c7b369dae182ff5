import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as v from "valibot";
import { event, millstream } from "../../mod.ts";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { type Proxy, startProxy } from "../support/proxy.ts";
import { service } from "../support/require.ts";
import { scale } from "../support/scale.ts";
import { type PrivateServer, startPostgres } from "../support/servers.ts";
import { eventually, pause } from "../support/wait.ts";
import { behind } from "./support/postgres_drivers.ts";

const { skip } = service("postgres-server");
const ROUNDS = Math.ceil(3 * scale);

describe("outbox and inbox while Postgres dies and replies are lost", { skip }, () => {
  let own: PrivateServer;
  let proxy: Proxy;
  let direct: PostgresStore;

  before(async () => {
    own = await startPostgres();
    proxy = await startProxy(own.port);
    direct = postgres({ url: own.url });
    await direct.start();
    await direct.sql`create table orders (id text primary key)`;
    await direct.sql`create table effects (what text, id text)`;
  });
  after(async () => {
    await direct[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await own.stop();
  });

  test("kill -9 with restarts, resets, and replies to COMMIT that never come: every order has each of its effects once", async () => {
    const Placed = event("order.placed", v.object({ id: v.string() }), { key: ({ id }) => id.slice(-1) });
    const Paid = event("order.paid", v.object({ id: v.string() }));
    const limits = { timeoutMs: 2_000, connectTimeoutMs: 2_000 };
    const store = postgres({ url: behind(own.url, proxy.port), ...limits });
    const observed = { "retried": 0, "duplicate": 0, "dead-lettered": 0, "lease-lost": 0 };
    const app = millstream({
      store,
      retry: { attempts: 1_000, baseMs: 20, maxMs: 500 },
      observer: ({ kind }) => {
        if (kind in observed) observed[kind as keyof typeof observed]++;
      },
    });
    const options = { group: "billing", leaseMs: 3_000, concurrency: 10 };
    app.on(Placed, options, async ({ data }, ctx) => {
      await ctx.sql`insert into effects values ('placed', ${data.id})`;
      await ctx.sql`select pg_sleep(0.03)`; // so that there is always a commit about to come
      await ctx.publish(Paid, data);
    });
    app.on(Paid, options, async ({ data }, ctx) => {
      await ctx.sql`insert into effects values ('paid', ${data.id})`;
      await ctx.sql`select pg_sleep(0.03)`;
    });
    await app.start();

    let writing = true;
    let uncertain = 0;
    let orders = 0;
    const writers = Promise.all([0, 1, 2, 3].map(async (writer) => {
      for (let n = 0; writing; n++) {
        const id = `${writer}-${n}`;
        // Until it is certain: the same order again is no other one.
        while (!await place(id)) await pause(50);
        orders++;
        await pause(5);
      }
    }));

    async function place(id: string): Promise<boolean> {
      try {
        await store.transaction(async ({ sql, outbox }) => {
          const fresh = await sql`insert into orders values (${id}) on conflict do nothing returning 1`;
          if (fresh.length === 0) return;
          const body = JSON.stringify({
            specversion: "1.0",
            id: `placed-${id}`,
            source: "/test",
            type: "order.placed",
            time: "2026-01-01T00:00:00.000Z",
            data: { id },
          });
          await outbox.add([{
            topic: "order",
            id: `placed-${id}`,
            type: "order.placed",
            key: id.slice(-1),
            body,
          }]);
        });
        return true;
      } catch {
        uncertain++;
        return false;
      }
    }

    let [kills, lostCommits, resets] = [0, 0, 0];
    for (let round = 0; round < ROUNDS; round++) {
      const before = orders;
      await eventually(() => orders > before + 20, { withinMs: 60_000 }); // it works
      await own.kill9();
      kills++;
      await own.restart();
      for (let lost = 0; lost < 3; lost++) {
        const now = orders;
        await eventually(() => orders > now + 5, { withinMs: 60_000 });
        await proxy.setOn("commit", "dropReplies");
        lostCommits++;
        await pause(200);
        await proxy.set("pass"); // which ends the connections whose replies were lost
      }
      proxy.resetAll();
      resets++;
    }
    writing = false;
    await writers;

    const counts = await eventually(async () => {
      const [row] = await direct.sql<Record<"placed" | "paid" | "orders" | "doubled", number>>`select
        (select count(*)::int from orders) as orders,
        (select count(distinct id)::int from effects where what = 'placed') as placed,
        (select count(distinct id)::int from effects where what = 'paid') as paid,
        (select count(*)::int from (select 1 from effects group by what, id having count(*) > 1) d) as doubled`;
      assert.deepEqual([row?.placed, row?.paid], [row?.orders, row?.orders], "effects are missing");
      return row;
    }, { withinMs: 90_000, everyMs: 200 });
    assert.equal(counts?.orders, orders);
    assert.equal(counts?.doubled, 0);
    assert.ok(uncertain > 0, "no fault hit a writer");
    assert.equal(observed["dead-lettered"], 0);
    await app.close();
    const { retried, duplicate, "lease-lost": leaseLost } = observed;
    console.log(
      `# ${orders} orders, ${
        2 * orders
      } effects; ${kills} kills, ${lostCommits} lost COMMIT replies, ${resets} resets; ` +
        `${uncertain} transactions failed or uncertain, ${retried} retries, ${duplicate} duplicates recognised, ` +
        `${leaseLost} leases lost; 0 effects lost, 0 doubled`,
    );
  });
});
