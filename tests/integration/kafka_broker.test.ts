import { after, test } from "node:test";
import { Kafka } from "kafkajs";
import { kafka, type KafkaDriver, kafkajs } from "../../adapters/kafka/mod.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { startKafka } from "../support/java_brokers.ts";
import { service } from "../support/require.ts";

const binary = service("kafka-server");
// No restarts here: kafka_faults.test.ts has them.
const SETTINGS = { sessionTimeoutMs: 1_500, rebalanceTimeoutMs: 3_000, fetchWaitMs: 20, idleMs: 150 };

if (binary.skip) {
  test("kafka: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const server = await startKafka();
  const client = new Kafka({ brokers: [`127.0.0.1:${server.port}`], logLevel: 0 });
  const admin = client.admin();
  await admin.connect();
  after(async () => {
    await admin.disconnect();
    await server.stop();
  });
  await brokerConformance({
    test,
    leaseMs: 500,
    delayMs: 1_500,
    create() {
      const driver = kafkajs(client);
      const topics = new Set<string>();
      const connect = () => kafka({ driver: noting(topics, driver), topics: { partitions: 4 }, ...SETTINGS });
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        async dispose() {
          await broker[Symbol.asyncDispose]();
          await driver[Symbol.asyncDispose]();
          await admin.deleteTopics({ topics: [...topics] }).catch(() => {});
        },
      });
    },
  });
}

/** The same driver, which writes down what it creates. */
function noting(topics: Set<string>, driver: KafkaDriver): KafkaDriver {
  return {
    ...driver,
    createTopics(wanted) {
      for (const { topic } of wanted) topics.add(topic);
      return driver.createTopics(wanted);
    },
  };
}
