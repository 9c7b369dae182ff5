/**
 * Publish → handle → acknowledge on Postgres: from the first publish to the last confirmed acknowledgement, against
 * graphile-worker with the settings that its documentation recommends for throughput: a local queue of 500 jobs and
 * completions in batches.
 *
 * Every contender publishes batch after batch while one process takes them, and parses every body. Nobody may lose or
 * repeat an event.
 *
 * @module
 */
import postgresJs from "postgres";
import * as v from "valibot";
import { type Broker, type EncodedMessage, event, millstream } from "../mod.ts";
import { postgres } from "../src/postgres/mod.ts";
import { inBatches, makeEvents, type Tally, tally, TYPE } from "./events.ts";
import { type Measured, type Prepared, timed, verify } from "./harness.ts";
import { peer } from "./peers.ts";

const BATCH = 100;
const CALLERS = 32;
const CONCURRENCY = 24;
const GROUP = "bench";
const TOPIC = TYPE.split(".", 1)[0] ?? TYPE;
const PATIENCE_MS = 30_000;

/** One way to move events, ready to begin. */
interface Line extends AsyncDisposable {
  publish(batch: readonly EncodedMessage[]): Promise<unknown>;
  /** Takes, handles and acknowledges until all is done. */
  consume(tally: Tally): Promise<void>;
  /** How many events are still to be handled or acknowledged, as the server says. */
  left(): Promise<number>;
}

/** The questions on the server at `url`, with `count` events per run, each in a schema that is dropped after it. */
export function preparePostgresBroker(url: string, count: number): Prepared {
  const contenders = (perPublish: number, callers: number, share: number) =>
    ([
      ["graphile-worker: addJobs, localQueue 500, batched completion", graphileLine],
      ["millstream: publish, pull, ack", brokerLine],
      [`millstream: app.on, concurrency ${BATCH}`, applicationLine],
    ] as const).map(([name, open]) => ({
      name,
      run: () => move(open, { url, count: count * share, perPublish, callers }),
    }));
  return {
    about: {},
    questions: [
      {
        name: `postgres: publish, handle, ack (batches of ${BATCH})`,
        unit: "events/s",
        contenders: contenders(BATCH, 1, 1),
      },
      {
        name: `postgres: publish, handle, ack (one by one, ${CALLERS} callers)`,
        unit: "events/s",
        contenders: contenders(1, CALLERS, 0.25),
      },
    ],
  };
}

interface Load {
  readonly url: string;
  readonly count: number;
  readonly perPublish: number;
  readonly callers: number;
}

type OpenLine = (url: string, schema: string) => Promise<Line>;

/** Moves events over a new line, and checks that all arrived. */
async function move(open: OpenLine, { url, count, perPublish, callers }: Load): Promise<Measured> {
  const schema = `bench_${crypto.randomUUID().slice(0, 8)}`;
  const batches = inBatches(makeEvents(count), perPublish);
  const all = tally(count);
  try {
    const line = await open(url, schema);
    try {
      let next = 0;
      const publishing = async (): Promise<void> => {
        for (let batch = batches[next++]; batch; batch = batches[next++]) await line.publish(batch);
      };
      const measured = await timed(count, async () => {
        await Promise.all([...Array.from({ length: callers }, publishing), line.consume(all)]);
      });
      all.check();
      verify("events left in the group", await line.left(), 0);
      return measured;
    } finally {
      await line[Symbol.asyncDispose]();
    }
  } finally {
    const sql = postgresJs(url, { max: 1, onnotice: () => {} });
    await sql.unsafe(`drop schema if exists ${schema} cascade`);
    await sql.end();
  }
}

/** Counts a job as acknowledged when its task has ended: the worker says nothing about single completions. */
async function graphileLine(url: string, schema: string): Promise<Line> {
  const { makeWorkerUtils, run, Logger } = await peer<Graphile>("graphile-worker");
  const utils = await makeWorkerUtils({ connectionString: url, schema, maxPoolSize: 10 });
  await utils.migrate();
  let all: Tally | undefined;
  let finish = (): void => {};
  const runner = await run({
    connectionString: url,
    schema,
    concurrency: CONCURRENCY,
    maxPoolSize: 10,
    noHandleSignals: true,
    preset: { worker: { localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 } },
    logger: new Logger(() => () => {}),
    taskList: {
      handle(payload) {
        all?.handle(JSON.parse(payload.body).data.number);
        all?.acked(1);
        if (all?.done) finish();
      },
    },
  });
  const left = async (): Promise<number> => {
    return await utils.withPgClient(async (client) => {
      const { rows } = await client.query(`select count(*)::int as left from ${schema}.jobs`);
      return rows[0]?.left ?? 0;
    });
  };
  return {
    publish: (batch) =>
      utils.addJobs(
        batch.map(({ id, type, body }) => ({ identifier: "handle", payload: { id, type, body } })),
      ),
    async consume(given) {
      const handled = new Promise<void>((resolve, reject) => {
        all = given;
        const timer = setTimeout(() => reject(nothingCame()), PATIENCE_MS);
        finish = () => {
          clearTimeout(timer);
          resolve();
        };
      });
      await handled;
      while (await left() > 0) await new Promise((resolve) => setTimeout(resolve, 2)); // until they are confirmed
    },
    left,
    async [Symbol.asyncDispose]() {
      await runner.stop();
      await utils.release();
    },
  };
}

interface Graphile {
  makeWorkerUtils(options: object): Promise<{
    migrate(): Promise<void>;
    addJobs(jobs: readonly object[]): Promise<unknown>;
    withPgClient<T>(work: (client: Client) => Promise<T>): Promise<T>;
    release(): Promise<void>;
  }>;
  run(options: {
    readonly taskList: { handle(payload: { readonly body: string }): void };
    readonly [option: string]: unknown;
  }): Promise<{ stop(): Promise<void> }>;
  Logger: new (factory: () => () => void) => object;
}

interface Client {
  query(text: string): Promise<{ readonly rows: ReadonlyArray<{ readonly left: number }> }>;
}

/** The calls of the broker port. */
async function brokerLine(url: string, schema: string): Promise<Line> {
  const store = postgres({ url, schema, max: 10 });
  await store.start();
  const broker = store.broker();
  const subscription = await broker.subscribe(TOPIC, GROUP);
  return {
    publish: (batch) => broker.publish(TOPIC, batch),
    async consume(all) {
      while (!all.done) {
        const deliveries = await subscription.pull(500, { waitMs: PATIENCE_MS });
        if (deliveries.length === 0) throw nothingCame();
        for (const { body } of deliveries) all.handle(JSON.parse(body).data.number);
        all.acked(deliveries.length - (await subscription.ack(deliveries)).length);
      }
    },
    left: async () => await leftIn(broker),
    [Symbol.asyncDispose]: () => store[Symbol.asyncDispose](),
  };
}

/** The complete runtime: decoding, validation, timeout, retry policy, heartbeat. */
async function applicationLine(url: string, schema: string): Promise<Line> {
  const data = v.object({ number: v.number(), orderId: v.string() });
  const OrderPlaced = event(TYPE, data);
  let all: Tally | undefined;
  let finish = (): void => {};
  const store = postgres({ url, schema, max: 10 });
  const broker = countingAcks(store.broker(), (count) => {
    all?.acked(count);
    if (all?.done) finish();
  });
  const app = millstream({ store, broker });
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
  const [status] = await broker.groups({ topic: TOPIC });
  const { ready = -1, inFlight = 0, delayed = 0, dead = 0 } = status ?? {};
  return ready + inFlight + delayed + dead;
}

function nothingCame(): Error {
  return new Error(`Cannot finish: expected more events, got none for ${PATIENCE_MS} ms`);
}
