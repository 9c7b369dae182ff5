import { test } from "node:test";
import { kafka } from "../../adapters/kafka/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { service } from "../support/require.ts";

const server = service("kafka");

if (server.skip) {
  test("kafka: the conformance suite", { skip: server.skip }, () => {});
} else {
  const settings = { sessionTimeoutMs: 1_500, rebalanceTimeoutMs: 3_000, fetchWaitMs: 50, idleMs: 150 };
  const connect = () => kafka({ url: server.url, topics: { partitions: 4 }, ...settings });
  await brokerConformance({
    test,
    create() {
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });
}
