/**
 * Publish → handle → acknowledge on RabbitMQ and on NATS JetStream: from the first publish to the last acknowledgement,
 * against the same loop written by hand on the driver that the adapter uses.
 *
 * Every contender publishes batch after batch, each confirmed by the server, while one consumer takes up to a batch at a
 * time and parses every body. Nobody may lose or repeat an event.
 *
 * @module
 */
import type { Broker, Delivery, EncodedMessage } from "../mod.ts";
import { inBatches, makeEvents, type Tally, tally, TYPE } from "./events.ts";
import { type Measured, timed } from "./harness.ts";

/** Events per batch. */
export const BATCH = 100;
/** The consumers' group. */
export const GROUP = "bench";
/** Where events are published. */
export const TOPIC: string = TYPE.split(".", 1)[0] ?? TYPE;
/** How long a consumer waits for what must come, in milliseconds. */
export const PATIENCE_MS = 30_000;

/** One way to move events, ready to begin. */
export interface Line extends AsyncDisposable {
  publish(batch: readonly EncodedMessage[]): Promise<unknown>;
  /** Takes, handles and acknowledges until all is done. */
  consume(tally: Tally): Promise<void>;
}

/** Moves `count` events over a new line and checks that all arrived, once. */
export async function move(open: (prefix: string) => Promise<Line>, count: number): Promise<Measured> {
  const batches = inBatches(makeEvents(count), BATCH);
  const all = tally(count);
  const line = await open(`bench-${crypto.randomUUID()}`);
  try {
    const measured = await timed(count, async () => {
      const publishing = (async () => {
        for (const batch of batches) await line.publish(batch);
      })();
      await Promise.all([publishing, line.consume(all)]);
    });
    all.check();
    return measured;
  } finally {
    await line[Symbol.asyncDispose]();
  }
}

/**
 * The calls of the broker port.
 *
 * @param ahead Whether the next batch is asked for before this one is handled and acknowledged.
 */
export async function brokerLine(
  broker: Broker,
  ahead: boolean,
  cleanUp: () => Promise<void>,
): Promise<Line> {
  const subscription = await broker.subscribe(TOPIC, GROUP);
  return {
    publish: (batch) => broker.publish(TOPIC, batch),
    async consume(all) {
      const pull = (): Promise<readonly Delivery[]> => subscription.pull(BATCH, { waitMs: PATIENCE_MS });
      let taken = 0;
      let next: Promise<readonly Delivery[]> | undefined;
      while (!all.done) {
        const deliveries = await (next ?? pull());
        if (deliveries.length === 0) throw nothingCame();
        taken += deliveries.length;
        next = ahead && taken < all.count ? pull() : undefined;
        next?.catch(() => {}); // should this batch fail before anybody waits for the next one
        for (const { body } of deliveries) all.handle(JSON.parse(body).data.number);
        all.acked(deliveries.length - (await subscription.ack(deliveries)).length);
      }
    },
    async [Symbol.asyncDispose]() {
      await broker[Symbol.asyncDispose]();
      await cleanUp();
    },
  };
}

/** The error for a line that has dried up. */
export function nothingCame(): Error {
  return new Error(`Cannot go on: nothing came within ${PATIENCE_MS} ms`);
}
