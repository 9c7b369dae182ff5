/** Behind PgBouncer in transaction mode, where every statement may run on another connection of the server. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import * as v from "valibot";
import { event, millstream } from "../../mod.ts";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { service } from "../support/require.ts";
import { freePort } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, events, messages, server, uniqueSchema } from "./postgres_fixture.ts";

const pgbouncer = service("pgbouncer");

describe("behind a pooler in transaction mode, without prepared statements", {
  skip: server.skip || pgbouncer.skip,
}, () => {
  const schema = uniqueSchema("pooler");
  let url = "";
  let stop = (): void => {};

  before(async () => ({ url, stop } = await startPgBouncer(pgbouncer.url, server.url)));
  after(async () => {
    stop();
    await dropSchema(schema);
  });

  const open = (): PostgresStore => postgres({ url, schema, prepare: false, max: 4, transactions: 4 });

  test("four stores that start at once migrate the schema once, and write, read and lock through two connections", async () => {
    const stores = Array.from({ length: 4 }, open);
    await Promise.all(stores.map((store) => store.start()));
    const appends = stores.flatMap((store) =>
      Array.from({ length: 10 }, (_, n) =>
        store.transaction(async (tx) => {
          await tx.events.append([{ stream: `s-${n}`, expected: "any", events: events(2) }]);
          await tx.inbox.record(`group-${n}`, "m");
        }))
    );
    await Promise.all(appends);
    const [first] = stores;
    assert.ok(first);
    for (let n = 0; n < 10; n++) assert.equal((await first.events.readStream(`s-${n}`)).length, 8);
    await eventually(async () => {
      assert.equal((await first.events.readAll(0n, { limit: 100 })).events.length, 80);
    });
    const leases = await Promise.all(stores.map((store, n) => store.leases.acquire("one", `p${n}`, 60_000)));
    assert.equal(leases.filter(Boolean).length, 1);
    for (const store of stores) await store[Symbol.asyncDispose]();
  });

  test("the broker: every message once to each group, and what a closed consumer held to the next", async () => {
    await using store = open();
    await store.start();
    const broker = store.broker();
    const some = messages(200);
    await Promise.all(some.map((message) => broker.publish("topic", [message])));
    const leaving = await broker.subscribe("topic", "group");
    const held = await leaving.pull(50, { waitMs: 30_000 });
    await leaving.ack(held.slice(0, 20));
    await leaving[Symbol.asyncDispose]();
    const group = await broker.subscribe("topic", "group");
    const taken = held.slice(0, 20).map(({ id }) => id);
    while (taken.length < 200) {
      const deliveries = await group.pull(100, { waitMs: 30_000 });
      assert.ok(deliveries.length > 0, `only ${taken.length} messages came`);
      taken.push(...deliveries.map(({ id }) => id));
      await group.ack(deliveries);
    }
    assert.deepEqual(taken.sort(), some.map(({ id }) => id).sort());
  });

  test("an application: handler, transaction, outbox and relay", async () => {
    const Ping = event("ping.sent", v.object({ n: v.number() }));
    const Pong = event("pong.sent", v.object({ n: v.number() }));
    const store = open();
    const app = millstream({ store });
    const pongs: number[] = [];
    app.on(Ping, { group: "g" }, async ({ data }, ctx) => {
      await ctx.sql`select 1`;
      await ctx.publish(Pong, data);
    });
    app.on(Pong, { group: "g" }, ({ data }) => void pongs.push(data.n));
    await app.start();
    for (let n = 0; n < 20; n++) await app.publish(Ping, { n });
    await eventually(() => assert.equal(pongs.length, 20));
    await app.close();
  });
});

/** PgBouncer with two connections to the server for each database and user. */
async function startPgBouncer(binary: string, target: string): Promise<{ url: string; stop(): void }> {
  const { hostname, port, pathname, username } = new URL(target);
  const folder = mkdtempSync(join(tmpdir(), "pgbouncer-"));
  const listen = await freePort();
  const config = join(folder, "pgbouncer.ini");
  writeFileSync(
    config,
    `[databases]
* = user=${username || "postgres"} host=${hostname} port=${port || 5432}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
`,
    { mode: 0o644 },
  );
  // Readable for the user that it becomes: it does not run as root.
  chmodSync(folder, 0o755);
  const user = process.getuid?.() === 0 ? ["-u", "nobody"] : [];
  const child = spawn(binary, [...user, config], { stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  child.stderr.on("data", (chunk) => log += String(chunk));
  await eventually(() => {
    if (!log.includes("process up")) throw new Error(log);
  });
  return {
    url: `postgres://${username}@127.0.0.1:${listen}${pathname}`,
    stop() {
      child.kill("SIGKILL");
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
