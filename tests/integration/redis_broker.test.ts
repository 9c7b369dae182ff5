import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import { ioredisDriver, redis } from "../../src/redis/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { service } from "../support/require.ts";
import { startRedis } from "../support/servers.ts";

const binary = service("redis-server");

if (binary.skip) {
  test("redis-streams: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const server = await startRedis({ args: ["--appendfsync", "always"] });
  after(() => server.stop());
  await brokerConformance({
    test,
    create() {
      const prefix = `t${randomUUID().slice(0, 8)}`;
      const connect = () => redis({ url: server.url, prefix });
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        async restart() {
          await server.kill9();
          await server.restart();
          return broker;
        },
        async trim(topic) {
          const admin = ioredisDriver({ url: server.url }).connect("test");
          await admin.call("xtrim", [`${prefix}:{${topic}}:log`, "MAXLEN", 0], { timeoutMs: 1_000 });
          await admin[Symbol.asyncDispose]();
        },
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });
}
