/**
 * Publish → handle → acknowledge on Redis: from the first publish to the last confirmed acknowledgement, against the
 * same loop written by hand on ioredis.
 *
 * Every contender publishes batch after batch while one consumer takes up to a batch at a time, has one connection for
 * writing and one for reading, and parses every body. Nobody may lose or repeat an event.
 *
 * @module
 */
import { Redis } from "ioredis";
import * as v from "valibot";
import { type Broker, type Delivery, type EncodedMessage, event, millstream } from "../mod.ts";
import { redis } from "../src/redis/mod.ts";
import { inBatches, makeEvents, type Tally, tally, TYPE } from "./events.ts";
import { type Measured, type Prepared, timed, verify } from "./harness.ts";
import { openQueue, openWorker } from "./redis_bullmq.ts";
import { type Clean, latency, singles } from "./redis_singles.ts";

const BATCH = 100;
const GROUP = "bench";
const TOPIC = TYPE.split(".", 1)[0] ?? TYPE;
const PATIENCE_MS = 30_000;

/** One way to move events, ready to begin. */
interface Line extends AsyncDisposable {
  publish(batch: readonly EncodedMessage[]): Promise<unknown>;
  /** Takes, handles and acknowledges until all is done. */
  consume(tally: Tally): Promise<void>;
  /** How many events are still to be read or acknowledged, as the server says. */
  left(): Promise<number>;
}

/** The question on the server at `url`, with `count` events per run. */
export async function prepareRedis(url: string, count: number): Promise<Prepared> {
  const run = (open: (prefix: string) => Promise<Line>) => async (): Promise<Measured> =>
    await move(open, url, count);
  const clean: Clean = async (work) => {
    const prefix = `bench-${crypto.randomUUID()}`;
    try {
      return await work(prefix);
    } finally {
      await removeKeys(url, prefix);
    }
  };
  const size = makeEvents(1)[0]?.body.length;
  return {
    about: await about(url),
    questions: [
      {
        name: `redis: publish, handle, ack (batches of ${BATCH}, ${size} bytes)`,
        unit: "events/s",
        contenders: [
          {
            name: "ioredis: XADD pipelined, XREADGROUP, XACK",
            run: run((prefix) => ioredisLine(url, prefix, false)),
          },
          {
            name: "ioredis: same, reading on while acknowledging",
            run: run((prefix) => ioredisLine(url, prefix, true)),
          },
          { name: "millstream: publish, pull, ack", run: run((prefix) => brokerLine(url, prefix, false)) },
          {
            name: "millstream: same, pulling on while acknowledging",
            run: run((prefix) => brokerLine(url, prefix, true)),
          },
          {
            name: `millstream: app.on, concurrency ${BATCH}`,
            run: run((prefix) => applicationLine(url, prefix)),
          },
          { name: `bullmq: addBulk, concurrency ${BATCH}`, run: run((prefix) => bullLine(url, prefix)) },
        ],
      },
      singles(url, count / 4, clean),
      latency(url, 50, clean),
      latency(url, 99, clean),
    ],
  };
}

/** Moves events over a new line, checks that all arrived, and removes what it left on the server. */
async function move(open: (prefix: string) => Promise<Line>, url: string, count: number): Promise<Measured> {
  const prefix = `bench-${crypto.randomUUID()}`;
  const batches = inBatches(makeEvents(count), BATCH);
  const all = tally(count);
  try {
    const line = await open(prefix);
    try {
      const measured = await timed(count, async () => {
        const publishing = (async () => {
          for (const batch of batches) await line.publish(batch);
        })();
        await Promise.all([publishing, line.consume(all)]);
      });
      all.check();
      verify("events left in the group", await line.left(), 0);
      return measured;
    } finally {
      await line[Symbol.asyncDispose]();
    }
  } finally {
    await removeKeys(url, prefix);
  }
}

/**
 * The loop by hand.
 *
 * @param ahead Whether the next batch is asked for before this one is handled and acknowledged.
 */
async function ioredisLine(url: string, prefix: string, ahead: boolean): Promise<Line> {
  const writer = connect(url);
  const reader = connect(url);
  const key = `${prefix}:${TOPIC}`;
  await writer.xgroup("CREATE", key, GROUP, "0", "MKSTREAM");

  async function publish(batch: readonly EncodedMessage[]): Promise<void> {
    const pipeline = writer.pipeline();
    for (const { body } of batch) pipeline.xadd(key, "*", "body", body);
    for (const [error] of await pipeline.exec() ?? []) if (error) throw error;
  }

  async function read(): Promise<readonly Entry[]> {
    const reply = await reader.xreadgroup(
      "GROUP",
      GROUP,
      "c1",
      "COUNT",
      BATCH,
      "BLOCK",
      PATIENCE_MS,
      "STREAMS",
      key,
      ">",
    );
    const [stream] = (reply ?? []) as ReadonlyArray<readonly [key: string, entries: readonly Entry[]]>;
    if (!stream) throw nothingCame();
    return stream[1];
  }

  async function consume(all: Tally): Promise<void> {
    let taken = 0;
    let next: Promise<readonly Entry[]> | undefined;
    while (!all.done) {
      const entries = await (next ?? read());
      taken += entries.length;
      next = ahead && taken < all.count ? read() : undefined;
      next?.catch(() => {}); // should this batch fail before anybody waits for the next one
      for (const [, fields] of entries) all.handle(JSON.parse(fields[1] ?? "").data.number);
      all.acked(await writer.xack(key, GROUP, ...entries.map(([id]) => id)));
    }
  }

  return {
    publish,
    consume,
    async left() {
      const [pending] = await writer.xpending(key, GROUP);
      return Number(pending);
    },
    [Symbol.asyncDispose]() {
      for (const client of [writer, reader]) client.disconnect();
      return Promise.resolve();
    },
  };
}

/**
 * The calls of the broker port.
 *
 * @param ahead Whether the next batch is asked for before this one is handled and acknowledged.
 */
async function brokerLine(url: string, prefix: string, ahead: boolean): Promise<Line> {
  const broker = redis({ url, prefix });
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
    left: async () => await leftIn(broker),
    [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
  };
}

/** The complete runtime: decoding, validation, inbox, timeout, retry policy, heartbeat. */
async function applicationLine(url: string, prefix: string): Promise<Line> {
  const data = v.object({ number: v.number(), orderId: v.string() });
  const OrderPlaced = event(TYPE, data);
  let all: Tally | undefined;
  let finish = (): void => {};
  const broker = countingAcks(redis({ url, prefix }), (count) => {
    all?.acked(count);
    if (all?.done) finish();
  });
  const app = millstream({ broker });
  app.on(OrderPlaced, { group: GROUP, concurrency: BATCH }, (placed) => all?.handle(placed.data.number));
  await app.start();
  return {
    publish: (batch) => broker.publish(TOPIC, batch),
    consume: (given) =>
      new Promise((resolve, reject) => {
        all = given;
        const timer = setTimeout(() => reject(nothingCame()), PATIENCE_MS);
        finish = () => {
          clearTimeout(timer);
          resolve();
        };
      }),
    left: async () => await leftIn(broker),
    [Symbol.asyncDispose]: () => app.close(),
  };
}

async function bullLine(url: string, prefix: string): Promise<Line> {
  const queue = await openQueue(url, prefix);
  let all: Tally | undefined;
  let finish = (): void => {};
  const worker = await openWorker(url, prefix, {
    concurrency: BATCH,
    handle: (body) => all?.handle(JSON.parse(body).data.number),
    completed() {
      all?.acked(1);
      if (all?.done) finish();
    },
  });
  return {
    publish: (batch) => queue.addBulk(batch.map(({ body }) => ({ name: TYPE, data: body }))),
    consume: (given) =>
      new Promise((resolve, reject) => {
        all = given;
        const timer = setTimeout(() => reject(nothingCame()), PATIENCE_MS);
        finish = () => {
          clearTimeout(timer);
          resolve();
        };
      }),
    async left() {
      const { waiting = 0, active = 0 } = await queue.getJobCounts("waiting", "active");
      return waiting + active;
    },
    async [Symbol.asyncDispose]() {
      await worker.close();
      await queue.close();
    },
  };
}

/** The same broker, which also says how many acknowledgements were confirmed. */
function countingAcks(broker: Broker, acked: (count: number) => void): Broker {
  return {
    ...broker,
    async subscribe(topic, group, options) {
      const subscription = await broker.subscribe(topic, group, options);
      return {
        ...subscription,
        async ack(deliveries) {
          const lost = await subscription.ack(deliveries);
          acked(deliveries.length - lost.length);
          return lost;
        },
      };
    },
  };
}

async function leftIn(broker: Broker): Promise<number> {
  const { ready, inFlight, delayed, dead } = await (await broker.subscribe(TOPIC, GROUP)).lag();
  return ready + inFlight + delayed + dead;
}

async function about(url: string): Promise<Record<string, string>> {
  const client = connect(url);
  try {
    const version = /redis_version:(\S+)/.exec(await client.info("server"))?.[1] ?? "unknown";
    const setting = async (name: string): Promise<string> => {
      // Hosted servers may forbid CONFIG.
      const reply = await client.config("GET", name).catch(() => []) as readonly string[];
      return reply[1] ?? "unknown";
    };
    return {
      redis: version,
      appendonly: await setting("appendonly"),
      appendfsync: await setting("appendfsync"),
    };
  } finally {
    client.disconnect();
  }
}

async function removeKeys(url: string, prefix: string): Promise<void> {
  const client = connect(url);
  try {
    let cursor = "0";
    do {
      const [next, keys] = await client.scan(cursor, "MATCH", `${prefix}*`, "COUNT", 1_000);
      cursor = next;
      if (keys.length > 0) await client.unlink(...keys);
    } while (cursor !== "0");
  } finally {
    client.disconnect();
  }
}

type Entry = readonly [id: string, fields: readonly string[]];

function connect(url: string): Redis {
  return new Redis(url, { protocol: 2, replyMapping: "legacy" });
}

function nothingCame(): Error {
  return new Error(`Cannot finish: expected more events, got none for ${PATIENCE_MS} ms`);
}
