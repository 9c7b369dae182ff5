/**
 * RabbitMQ: the adapter against amqplib by hand. See `brokers.ts`.
 *
 * @module
 */
import amqplib, { type ConsumeMessage } from "amqplib";
import { rabbitmq } from "../adapters/rabbitmq/mod.ts";
import type { EncodedMessage } from "../mod.ts";
import { BATCH, brokerLine, GROUP, type Line, move, nothingCame, PATIENCE_MS, TOPIC } from "./brokers.ts";
import { makeEvents, type Tally } from "./events.ts";
import type { Measured, Prepared } from "./harness.ts";

/** The question on the server at `url`, with `count` events per run. */
export async function prepareRabbitmq(url: string, count: number): Promise<Prepared> {
  const connection = await amqplib.connect(url);
  const { version } = connection.connection.serverProperties;
  await connection.close();
  const run = (open: (prefix: string) => Promise<Line>) => (): Promise<Measured> => move(open, count);
  return {
    about: { RabbitMQ: String(version), queues: "quorum" },
    questions: [{
      name: `rabbitmq: publish, handle, ack (batches of ${BATCH}, ${makeEvents(1)[0]?.body.length} bytes)`,
      unit: "events/s",
      contenders: [
        {
          name: "amqplib: confirms, prefetch, ack",
          run: run((prefix) => amqplibLine(url, prefix)),
        },
        { name: "millstream: publish, pull, ack", run: run((prefix) => millstreamLine(url, prefix, false)) },
        {
          name: "millstream: same, reading on while acknowledging",
          run: run((prefix) => millstreamLine(url, prefix, true)),
        },
      ],
    }],
  };
}

function millstreamLine(url: string, prefix: string, ahead: boolean): Promise<Line> {
  return brokerLine(rabbitmq({ url, prefix, prefetch: 2 * BATCH }), ahead, () => remove(url, prefix));
}

/** The loop by hand: the same topology, a confirm channel and a consuming channel on a connection of its own each. */
async function amqplibLine(url: string, prefix: string): Promise<Line> {
  const [writer, reader] = [
    await amqplib.connect(url, { noDelay: true }),
    await amqplib.connect(url, { noDelay: true }),
  ];
  const publishing = await writer.createConfirmChannel();
  const consuming = await reader.createChannel();
  const [exchange, queue] = [`${prefix}:${TOPIC}`, `${prefix}:${TOPIC}:${GROUP}`];
  await consuming.assertExchange(exchange, "fanout");
  await consuming.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
  await consuming.bindQueue(queue, exchange, "");
  await consuming.prefetch(2 * BATCH);

  async function publish(batch: readonly EncodedMessage[]): Promise<void> {
    await Promise.all(batch.map(({ id, body }) =>
      new Promise<void>((resolve, reject) =>
        publishing.publish(
          exchange,
          "",
          Buffer.from(body),
          { persistent: true, messageId: id, contentType: "application/cloudevents+json" },
          (error) => error ? reject(error) : resolve(),
        )
      )
    ));
  }

  function consume(all: Tally): Promise<void> {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(nothingCame()), PATIENCE_MS);
      void consuming.consume(queue, (message: ConsumeMessage | null) => {
        if (!message) return;
        all.handle(JSON.parse(message.content.toString()).data.number);
        consuming.ack(message);
        all.acked(1);
        if (!all.done) return;
        clearTimeout(timer);
        resolve();
      });
    });
  }

  return {
    publish,
    consume,
    async [Symbol.asyncDispose]() {
      await Promise.all([writer.close(), reader.close()]);
      await remove(url, prefix);
    },
  };
}

/** Deletes what a line left on the server. */
async function remove(url: string, prefix: string): Promise<void> {
  const connection = await amqplib.connect(url);
  const channel = await connection.createChannel();
  const queue = `${prefix}:${TOPIC}:${GROUP}`;
  for (const name of [queue, `${queue}:dead`, `${prefix}::groups`]) await channel.deleteQueue(name);
  for (const name of [`${prefix}:${TOPIC}`, `${prefix}::delay`, `${prefix}::return`]) {
    await channel.deleteExchange(name);
  }
  await connection.close();
}
