import { randomUUID } from "node:crypto";
import process from "node:process";
import { after, test } from "node:test";
import { connect } from "@nats-io/transport-node";
import { nats } from "../../adapters/nats/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { startNats } from "../support/brokers.ts";
import { service } from "../support/require.ts";

const { node, bun, deno } = process.versions as Record<string, string | undefined>;
const isNode24 = Number(node?.split(".")[0]) >= 24 && !bun && !deno;
const binary = service("nats-server");

if (binary.skip) {
  test("nats: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const server = await startNats();
  after(() => server.stop());
  await brokerConformance({
    test,
    patienceMs: 20_000,
    create() {
      const prefix = `t${randomUUID().slice(0, 8)}`;
      const open = () => nats({ url: server.url, prefix });
      const broker = open();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(open()),
        // Takes long and depends on the server, not on the runtime: once is enough.
        ...isNode24 && {
          async restart() {
            await server.kill9();
            await server.restart();
            return broker;
          },
        },
        async trim(topic) {
          const plain = await connect({ servers: server.url });
          await plain.request(`$JS.API.STREAM.PURGE.${prefix}=topic=${topic}`);
          await plain.close();
        },
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });
}
