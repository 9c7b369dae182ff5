/**
 * Kafka: the adapter against kafkajs by hand. See `brokers.ts`.
 *
 * @module
 */
import { Kafka } from "kafkajs";
import { kafka } from "../adapters/kafka/mod.ts";
import { BATCH, brokerLine, GROUP, type Line, move, TOPIC } from "./brokers.ts";
import { makeEvents } from "./events.ts";
import type { Measured, Prepared } from "./harness.ts";

const PARTITIONS = 4;
/** As long as the adapter is told to. */
const FETCH_WAIT_MS = 100;

/** The question on the cluster at `url`, with `count` events per run. */
export async function prepareKafka(url: string, count: number): Promise<Prepared> {
  const run = (open: (prefix: string) => Promise<Line>) => (): Promise<Measured> => move(open, count);
  const topics = { partitions: PARTITIONS };
  return await Promise.resolve({
    about: { kafkajs: "acks=all, idempotent", partitions: String(PARTITIONS) },
    questions: [{
      name: `kafka: publish, handle, ack (batches of ${BATCH}, ${makeEvents(1)[0]?.body.length} bytes)`,
      unit: "events/s",
      contenders: [
        { name: "kafkajs: send, eachBatch, commit", run: run((prefix) => kafkajsLine(url, prefix)) },
        {
          name: "millstream: publish, pull, ack",
          run: run((prefix) =>
            brokerLine(
              kafka({ url, prefix, topics, fetchWaitMs: FETCH_WAIT_MS }),
              false,
              () => remove(url, prefix),
            )
          ),
        },
      ],
    }],
  });
}

/** The loop by hand: every batch is committed when it is handled. */
async function kafkajsLine(url: string, prefix: string): Promise<Line> {
  const client = connect(url);
  const topic = `${prefix}.${TOPIC}`;
  const admin = client.admin();
  await admin.connect();
  await admin.createTopics({ waitForLeaders: true, topics: [{ topic, numPartitions: PARTITIONS }] });
  await admin.disconnect();
  const producer = client.producer({ idempotent: true });
  const consumer = client.consumer({ groupId: `${prefix}.${GROUP}`, maxWaitTimeInMs: FETCH_WAIT_MS });
  await producer.connect();
  await consumer.connect();
  await consumer.subscribe({ topic, fromBeginning: true });
  return {
    publish: (batch) =>
      producer.send({
        topic,
        acks: -1,
        messages: batch.map(({ key = null, body }) => ({ key, value: body })),
      }),
    consume: (all) =>
      new Promise((resolve, reject) => {
        consumer.run({
          autoCommit: false,
          async eachBatch({ batch }) {
            for (const { value } of batch.messages) all.handle(JSON.parse(String(value)).data.number);
            const offset = String(Number(batch.lastOffset()) + 1);
            await consumer.commitOffsets([{ topic, partition: batch.partition, offset }]);
            all.acked(batch.messages.length);
            if (all.done) resolve();
          },
        }).catch(reject);
      }),
    async [Symbol.asyncDispose]() {
      await producer.disconnect();
      await consumer.disconnect();
      await remove(url, prefix);
    },
  };
}

/** Deletes what a line left on the cluster. */
async function remove(url: string, prefix: string): Promise<void> {
  const admin = connect(url).admin();
  await admin.connect();
  const topics = (await admin.listTopics()).filter((topic) => topic.startsWith(`${prefix}.`));
  await admin.deleteTopics({ topics });
  await admin.disconnect();
}

function connect(url: string): Kafka {
  return new Kafka({ brokers: [new URL(url.replace("kafka:", "http:")).host], logLevel: 0 });
}
