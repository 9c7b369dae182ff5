import { randomUUID } from "node:crypto";
import process from "node:process";
import { after, test } from "node:test";
import { rabbitmq } from "../../adapters/rabbitmq/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { startRabbitmq } from "../support/brokers.ts";
import { service } from "../support/require.ts";
import { pause } from "../support/wait.ts";

const isNode24 = Number(process.versions.node.split(".")[0]) >= 24 && !process.versions.bun &&
  !process.versions.deno;
const binary = service("rabbitmq-server");

if (binary.skip) {
  test("rabbitmq: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const server = await startRabbitmq();
  after(() => server.stop());
  await brokerConformance({
    test,
    patienceMs: 20_000,
    create() {
      const prefix = `t${randomUUID().slice(0, 8)}`;
      const connect = () => rabbitmq({ url: server.url, prefix });
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        // Takes long and depends on the server, not on the runtime: once is enough.
        ...isNode24 && {
          async restart() {
            // A single node that is killed within moments of a quorum queue's first message may never elect a leader for
            // it again: rabbitmq-server#10070.
            await pause(3_000);
            await server.kill9();
            await server.restart();
            return broker;
          },
        },
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });
}
