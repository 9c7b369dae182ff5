import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import process from "node:process";
import { describe, test } from "node:test";
import { service } from "../../support/require.ts";
import { type PrivateServer, startPostgres, startRedis } from "../../support/servers.ts";
import { eventually, within } from "../../support/wait.ts";
import pg from "pg";

const redisServer = service("redis-server");
const postgresServer = service("postgres-server");

describe("a private Redis", { skip: redisServer.skip }, () => {
  test("keeps what it confirmed through SIGKILL and a restart on the same port", async () => {
    const redis = await startRedis();
    try {
      assert.equal(await ask(redis, "SET color green"), "+OK");
      const { pid, port } = redis;
      await redis.kill9();
      assert.equal(redis.alive, false);
      await assert.rejects(ask(redis, "PING"));
      await redis.restart();
      assert.equal(redis.port, port);
      assert.notEqual(redis.pid, pid);
      assert.match(await ask(redis, "GET color"), /green/);
    } finally {
      await redis.stop();
    }
  });

  test("says nothing while it is frozen, and goes on after", async () => {
    const redis = await startRedis();
    try {
      redis.sigstop();
      await assert.rejects(within(300, ask(redis, "PING")), /no answer/);
      redis.sigcont();
      assert.equal(await ask(redis, "PING"), "+PONG");
    } finally {
      await redis.stop();
    }
  });

  test("is gone with its folder once it is stopped, frozen or not", async () => {
    const redis = await startRedis();
    redis.sigstop();
    await redis.stop();
    await redis.stop();
    assert.equal(existsSync(redis.folder), false);
    assert.throws(() => process.kill(redis.pid, 0), /ESRCH/);
  });

  test("reports what the server said if it cannot start", async () => {
    await assert.rejects(startRedis({ args: ["--no-such-option", "1"] }), /no-such-option/);
  });
});

describe("a private Postgres", { skip: postgresServer.skip }, () => {
  test("keeps what it committed through SIGKILL of all its processes, and loses what it did not", async () => {
    const postgres = await startPostgres({
      settings: { max_connections: "20" },
    });
    try {
      const client = await connectTo(postgres);
      const lost = new Promise((resolve) => client.on("error", resolve));
      await client.query("create table colors (name text)");
      await client.query("insert into colors values ('green')");
      await client.query("begin");
      await client.query("insert into colors values ('red')");
      await postgres.kill9();
      await lost;
      await postgres.restart();
      const again = await connectTo(postgres);
      const { rows } = await again.query(
        "select name, current_setting('max_connections') as limit from colors",
      );
      assert.deepEqual(rows, [{ name: "green", limit: "20" }]);
      await again.end();
    } finally {
      await postgres.stop();
    }
    assert.equal(existsSync(postgres.folder), false);
  });

  test("answers no session while it is frozen", async () => {
    const postgres = await startPostgres();
    try {
      const client = await connectTo(postgres);
      await client.query("select 1");
      postgres.sigstop();
      const answer = client.query("select 2 as two");
      await assert.rejects(within(300, answer), /no answer/);
      postgres.sigcont();
      assert.deepEqual((await answer).rows, [{ two: 2 }]);
      await client.end();
    } finally {
      await postgres.stop();
    }
  });
});

async function connectTo({ url }: PrivateServer): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  return client;
}

/** One Redis command in the inline protocol, and the start of the reply. */
function ask({ port }: PrivateServer, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(
      port,
      "127.0.0.1",
      () => socket.write(`${command}\r\n`),
    );
    socket.once("data", (data) => {
      socket.destroy();
      resolve(String(data).trim());
    });
    socket.once("error", reject);
  });
}

test("eventually waits for what becomes true, and says at the deadline why it did not", async () => {
  let looks = 0;
  assert.equal(
    await eventually(() => ++looks === 3 ? "third" : false, {
      withinMs: 5_000,
      everyMs: 1,
    }),
    "third",
  );
  const never = eventually(() => assert.equal(looks, 4), {
    withinMs: 50,
    everyMs: 1,
  });
  await assert.rejects(never, /Not so within 50 ms.*3 !== 4/s);
});
