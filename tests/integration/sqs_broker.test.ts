import { after, test } from "node:test";
import { sqs } from "../../adapters/sqs/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { startElasticmq } from "../support/java_brokers.ts";
import { service } from "../support/require.ts";

const binary = service("elasticmq");

// No restarts: SQS itself has none to be seen, and ElasticMQ writes down later what it confirmed.
if (binary.skip) {
  test("sqs: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const server = await startElasticmq();
  after(() => server.stop());
  await brokerConformance({
    test,
    leaseMs: 1_000,
    patienceMs: 20_000,
    delayMs: 1_000,
    create() {
      const connect = () => sqs({ url: server.url, refreshMs: 0, pollMs: 1_000 });
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });
}
