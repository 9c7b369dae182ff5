/** The Redis seam: what a caller may believe about a command that failed. On a private server. */
import assert from "node:assert/strict";
import { createServer, type Server, type Socket } from "node:net";
import { after, test } from "node:test";
import { ioredisDriver } from "../../src/redis/mod.ts";
import type { RedisConnection, RedisScript } from "../../src/ports/redis.ts";
import { service } from "../support/require.ts";
import { type PrivateServer, startRedis } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { command } from "./support/redis_admin.ts";

const { skip } = service("redis-server");
const server: PrivateServer | undefined = skip ? undefined : await startRedis();
after(() => server?.stop());
const url = server?.url ?? "";
const SOON = { timeoutMs: 2_000 };

test("an address that is no Redis URL is refused, and its password is not repeated", () => {
  for (
    const bad of [
      "",
      "localhost",
      "http://localhost",
      "secret@host:1",
      7 as unknown as string,
    ]
  ) {
    assert.throws(
      () => ioredisDriver({ url: bad }),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, "INVALID_ARGUMENT");
        assert.ok(!error.message.includes("secret"));
        return true;
      },
    );
  }
});

test("without a server a call waits for its deadline, and is surely not sent", async () => {
  await connected("redis://127.0.0.1:1", async (connection) => {
    const start = performance.now();
    await assert.rejects(connection.call("ping", [], { timeoutMs: 300 }), {
      code: "UNAVAILABLE",
      retryable: true,
    });
    const waited = performance.now() - start;
    assert.ok(waited >= 290 && waited < 1_500, `it waited ${waited} ms`);
  });
});

test("a peer that accepts and never answers does not hold a connection for ever", async () => {
  const mute = await listen(() => {});
  try {
    let attempts = 0;
    mute.server.on("connection", () => attempts++);
    const driver = ioredisDriver({ url: mute.url, connectTimeoutMs: 150 });
    try {
      const calling = driver.connect("test").call("ping", [], { timeoutMs: 1_500 });
      await assert.rejects(calling, { code: "UNAVAILABLE" });
      assert.ok(attempts >= 2, `it connected ${attempts} times`);
    } finally {
      await driver[Symbol.asyncDispose]();
    }
  } finally {
    mute.close();
  }
});

test("an error reply is a refusal, and says what the server said", { skip }, async () => {
  await connected(url, async (connection) => {
    await assert.rejects(
      connection.call("get", [], SOON),
      (error: Error & { code?: string; details?: { reply?: string } }) => {
        assert.equal(error.code, "REJECTED");
        assert.match(error.details?.reply ?? "", /^ERR wrong number of arguments/);
        return true;
      },
    );
    assert.equal(await connection.call("ping", [], SOON), "PONG");
  });
});

test(
  "a reply that does not come in time: unknown, and the next call goes through on a new connection",
  { skip },
  async () => {
    await connected(url, async (connection) => {
      let reconnects = 0;
      connection.onReconnect(() => reconnects++);
      assert.equal(await connection.call("ping", [], SOON), "PONG");
      const late = connection.call("blpop", ["nothing", 5], { timeoutMs: 200 });
      const beside = connection.call("incr", ["beside"], SOON);
      await assert.rejects(late, { code: "PUBLISH_INDETERMINATE", retryable: true });
      await assert.rejects(
        beside,
        { code: "PUBLISH_INDETERMINATE" },
        "what was sent after it is unknown as well",
      );
      assert.equal(await connection.call("ping", [], SOON), "PONG");
      assert.equal(reconnects, 1);
    });
  },
);

test("the connection is killed while calls are out: unknown, never sent again", { skip }, async () => {
  await connected(url, async (connection) => {
    const id = await connection.call("client", ["id"], SOON);
    const unknown = { code: "PUBLISH_INDETERMINATE" };
    const out = [
      assert.rejects(connection.call("blpop", ["nothing", 5], { timeoutMs: 6_000 }), unknown),
      assert.rejects(connection.call("incr", ["counter"], { timeoutMs: 6_000 }), unknown),
    ];
    await command(url, "client", "kill", "id", Number(id));
    await Promise.all(out);
    assert.equal(await connection.call("ping", [], SOON), "PONG");
    assert.ok(Number(await connection.call("get", ["counter"], SOON) ?? 0) <= 1);
  });
});

test(
  "a frozen server: calls settle by their deadline, and go through when it is back",
  { skip },
  async () => {
    await connected(url, async (connection) => {
      await connection.call("ping", [], SOON);
      server?.sigstop();
      try {
        const start = performance.now();
        await assert.rejects(connection.call("ping", [], { timeoutMs: 300 }), {
          code: "PUBLISH_INDETERMINATE",
        });
        await assert.rejects(connection.call("ping", [], { timeoutMs: 300 }), { code: "UNAVAILABLE" });
        assert.ok(performance.now() - start < 2_000);
      } finally {
        server?.sigcont();
      }
      await eventually(async () => await connection.call("ping", [], SOON) === "PONG");
    });
  },
);

test("a restart of the server: a call in between waits and goes through", {
  skip,
}, async () => {
  await connected(url, async (connection) => {
    await connection.call("set", ["kept", "1"], SOON);
    await server?.kill9();
    const calling = connection.call("get", ["kept"], { timeoutMs: 10_000 })
      .catch((error) => error.code);
    await server?.restart();
    const outcome = await calling;
    // It was sent if the connection was not known to be dead yet.
    assert.ok(outcome === "1" || outcome === "PUBLISH_INDETERMINATE", String(outcome));
    await eventually(async () => await connection.call("ping", [], SOON) === "PONG");
  });
});

test(
  "a script runs by its digest, and by its source where the server does not know it",
  { skip },
  async () => {
    const script: RedisScript = { name: "sum", source: "return { KEYS[1], ARGV[1] + ARGV[2], 'ü' }" };
    await connected(url, async (connection) => {
      for (let round = 0; round < 2; round++) {
        assert.deepEqual(await connection.script(script, ["k"], [1, "2"], SOON), ["k", 3, "ü"]);
        await command(url, "script", "flush");
        const both = [
          connection.script(script, ["k"], [1, 2], SOON),
          connection.script(script, ["k"], [3, 4], SOON),
        ];
        assert.deepEqual(await Promise.all(both), [["k", 3, "ü"], ["k", 7, "ü"]]);
      }
    });
  },
);

test(
  "a signal gives up a call that was not sent, and leaves one that was to its reply",
  { skip },
  async () => {
    const controller = new AbortController();
    await connected("redis://127.0.0.1:1", async (connection) => {
      const waiting = connection.call("ping", [], { timeoutMs: 5_000, signal: controller.signal });
      controller.abort();
      await assert.rejects(waiting, { code: "ABORTED" });
    });
    await connected(url, async (connection) => {
      await connection.call("ping", [], SOON);
      const late = new AbortController();
      const sent = connection.call("incr", ["signalled"], { ...SOON, signal: late.signal });
      late.abort();
      assert.equal(await sent, 1);
    });
  },
);

test("a closed connection says so, and ends calls that are out", { skip }, async () => {
  const connection = ioredisDriver({ url }).connect("test");
  await connection.call("ping", [], SOON);
  const out = connection.call("blpop", ["nothing", 5], { timeoutMs: 6_000 });
  await Promise.all([
    connection[Symbol.asyncDispose](),
    assert.rejects(out, { code: "PUBLISH_INDETERMINATE" }),
  ]);
  await assert.rejects(connection.call("ping", [], SOON), { code: "CLOSED" });
  await connection[Symbol.asyncDispose]();
});

async function connected(
  address: string,
  run: (connection: RedisConnection) => Promise<void>,
): Promise<void> {
  const driver = ioredisDriver({ url: address });
  try {
    await run(driver.connect("test"));
  } finally {
    await driver[Symbol.asyncDispose]();
  }
}

async function listen(
  onSocket: (socket: Socket) => void,
): Promise<{ server: Server; url: string; close(): void }> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : 0;
  return {
    server,
    url: `redis://127.0.0.1:${port}`,
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}
