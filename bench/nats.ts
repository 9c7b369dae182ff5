/**
 * NATS JetStream: the adapter against `@nats-io/jetstream` by hand. See `brokers.ts`.
 *
 * @module
 */
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { nats } from "../adapters/nats/mod.ts";
import { BATCH, brokerLine, GROUP, type Line, move, nothingCame, PATIENCE_MS, TOPIC } from "./brokers.ts";
import { makeEvents } from "./events.ts";
import type { Measured, Prepared } from "./harness.ts";

/** The question on the server at `url`, with `count` events per run. */
export async function prepareNats(url: string, count: number): Promise<Prepared> {
  const plain = await connect({ servers: url });
  const version = plain.info?.version ?? "unknown";
  await plain.close();
  const run = (open: (prefix: string) => Promise<Line>) => (): Promise<Measured> => move(open, count);
  return {
    about: { NATS: version, streams: "file" },
    questions: [{
      name: `nats: publish, handle, ack (batches of ${BATCH}, ${makeEvents(1)[0]?.body.length} bytes)`,
      unit: "events/s",
      contenders: [
        {
          name: "jetstream: publish with msgID, fetch, ack",
          run: run((prefix) => jetstreamLine(url, prefix)),
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
  return brokerLine(nats({ url, prefix }), ahead, () => remove(url, prefix));
}

/** The loop by hand: the same stream and consumer. */
async function jetstreamLine(url: string, prefix: string): Promise<Line> {
  const connection = await connect({ servers: url });
  const manager = await jetstreamManager(connection);
  const js = jetstream(connection);
  const [stream, subject] = [`${prefix}=topic=${TOPIC}`, `${prefix}.${TOPIC}`];
  await manager.streams.add({ name: stream, subjects: [subject], storage: "file", discard: "new" });
  await manager.consumers.add(stream, {
    durable_name: GROUP,
    ack_policy: "explicit",
    max_ack_pending: 50_000,
  });
  const consumer = await js.consumers.get(stream, GROUP);
  return {
    publish: (batch) => Promise.all(batch.map(({ id, body }) => js.publish(subject, body, { msgID: id }))),
    async consume(all) {
      while (!all.done) {
        let taken = 0;
        for await (const message of await consumer.fetch({ max_messages: BATCH, expires: PATIENCE_MS })) {
          all.handle(message.json<{ data: { number: number } }>().data.number);
          message.ack();
          all.acked(1);
          taken++;
          if (all.done) break;
        }
        if (taken === 0) throw nothingCame();
      }
    },
    async [Symbol.asyncDispose]() {
      await connection.close();
      await remove(url, prefix);
    },
  };
}

/** Deletes what a line left on the server. */
async function remove(url: string, prefix: string): Promise<void> {
  const connection = await connect({ servers: url });
  const manager = await jetstreamManager(connection);
  for (const name of [`${prefix}=topic=${TOPIC}`, `${prefix}=dead`]) {
    await manager.streams.delete(name).catch(() => {}); // the loop by hand has no dead letters
  }
  await connection.close();
}
