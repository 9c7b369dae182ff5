/**
 * Single events from many callers at once, and how long one event takes when there is little to do.
 *
 * @module
 */
import { Redis } from "ioredis";
import type { EncodedMessage } from "../mod.ts";
import { redis } from "../src/redis/mod.ts";
import { makeEvents, TYPE } from "./events.ts";
import { type Contender, type Measured, type Question, timed, verify } from "./harness.ts";
import { openQueue, openWorker } from "./redis_bullmq.ts";

const CALLERS = 50;
const PER_SECOND = 200;
const SECONDS = 2;
const TOPIC = TYPE.split(".", 1)[0] ?? TYPE;

/** A way to publish one event, and to count what arrived. */
interface Mouth extends AsyncDisposable {
  publish(event: EncodedMessage): Promise<unknown>;
  arrived(): Promise<number>;
}

/** `count` events published by 50 callers, each of which waits for its own before it publishes the next. */
export function singles(url: string, count: number, clean: Clean): Question {
  const contender = (name: string, open: (prefix: string) => Promise<Mouth>): Contender => ({
    name,
    run: () =>
      clean(async (prefix) => {
        const mouth = await open(prefix);
        const events = makeEvents(count);
        try {
          const measured = await timed(count, async () => {
            let next = 0;
            await Promise.all(Array.from({ length: CALLERS }, async () => {
              for (let event = events[next++]; event; event = events[next++]) await mouth.publish(event);
            }));
          });
          verify("events that arrived", await mouth.arrived(), count);
          return measured;
        } finally {
          await mouth[Symbol.asyncDispose]();
        }
      }),
  });
  return {
    name: `redis: ${CALLERS} callers, an event each`,
    unit: "events/s",
    contenders: [
      contender("ioredis: XADD", async (prefix) => {
        const client = new Redis(url, { protocol: 2, replyMapping: "legacy" });
        await client.ping();
        return {
          publish: ({ body }) => client.xadd(prefix, "*", "body", body),
          arrived: () => client.xlen(prefix),
          [Symbol.asyncDispose]: () => Promise.resolve(client.disconnect()),
        };
      }),
      contender("millstream: publish", async (prefix) => {
        const broker = redis({ url, prefix });
        await broker.ping();
        return {
          publish: (event) => broker.publish(TOPIC, [event]),
          async arrived() {
            const group = await broker.subscribe(TOPIC, "count");
            return (await group.lag()).ready;
          },
          [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
        };
      }),
      contender("bullmq: add", async (prefix) => {
        const queue = await openQueue(url, prefix);
        return {
          publish: ({ body }) => queue.add(TYPE, body),
          arrived: async () => (await queue.getJobCounts("waiting"))["waiting"] ?? 0,
          [Symbol.asyncDispose]: () => queue.close(),
        };
      }),
    ],
  };
}

/** From the call that publishes an event to its handler, at 200 events a second. */
export function latency(url: string, percentile: number, clean: Clean): Question {
  const contender = (name: string, open: (prefix: string, heard: Heard) => Promise<Mouth>): Contender => ({
    name,
    run: () => clean((prefix) => delay(percentile, (heard) => open(prefix, heard))),
  });
  return {
    name: `redis: publish to handler at ${PER_SECOND}/s, p${percentile}`,
    unit: "1/s: its reciprocal",
    contenders: [
      contender("ioredis: XADD, XREADGROUP, XACK", async (prefix, heard) => {
        const writer = new Redis(url, { protocol: 2, replyMapping: "legacy" });
        const reader = new Redis(url, { protocol: 2, replyMapping: "legacy" });
        await writer.xgroup("CREATE", prefix, "g", "0", "MKSTREAM");
        void (async () => {
          for (;;) {
            const reply = await reader.xreadgroup(
              "GROUP",
              "g",
              "c",
              "COUNT",
              100,
              "BLOCK",
              5_000,
              "STREAMS",
              prefix,
              ">",
            ) as ReadonlyArray<readonly [string, ReadonlyArray<readonly [string, readonly string[]]>]> | null;
            const entries = reply?.[0]?.[1] ?? [];
            for (const [, fields] of entries) heard(fields[1] ?? "");
            if (entries.length > 0) await writer.xack(prefix, "g", ...entries.map(([id]) => id));
          }
        })().catch(() => {});
        return {
          publish: ({ body }) => writer.xadd(prefix, "*", "body", body),
          arrived: () => Promise.resolve(0),
          [Symbol.asyncDispose]() {
            for (const client of [writer, reader]) client.disconnect();
            return Promise.resolve();
          },
        };
      }),
      contender("millstream: publish, pull, ack", async (prefix, heard) => {
        const broker = redis({ url, prefix });
        const group = await broker.subscribe(TOPIC, "g");
        void (async () => {
          for (;;) {
            const some = await group.pull(100, { waitMs: 5_000 });
            for (const { body } of some) heard(body);
            await group.ack(some);
          }
        })().catch(() => {});
        return {
          publish: (event) => broker.publish(TOPIC, [event]),
          arrived: () => Promise.resolve(0),
          [Symbol.asyncDispose]: () => broker[Symbol.asyncDispose](),
        };
      }),
      contender("bullmq: add, worker", async (prefix, heard) => {
        const queue = await openQueue(url, prefix);
        const worker = await openWorker(url, prefix, { concurrency: 50, handle: heard, completed: () => {} });
        return {
          publish: ({ body }) => queue.add(TYPE, body),
          arrived: () => Promise.resolve(0),
          async [Symbol.asyncDispose]() {
            await worker.close();
            await queue.close();
          },
        };
      }),
    ],
  };
}

/** Told the body of each event that was handled. */
type Heard = (body: string) => void;

/** Runs with a prefix of its own and removes what it left on the server. */
export type Clean = (run: (prefix: string) => Promise<Measured>) => Promise<Measured>;

async function delay(percentile: number, open: (heard: Heard) => Promise<Mouth>): Promise<Measured> {
  const events = makeEvents(PER_SECOND * SECONDS);
  const sent = new Map<string, number>();
  const delays: number[] = [];
  const mouth = await open((body) => {
    const { id } = JSON.parse(body) as { id: string };
    delays.push(performance.now() - (sent.get(id) ?? NaN));
  });
  try {
    await mouth.publish(makeEvents(1)[0]!); // connections and scripts are there from now on
    await pause(100);
    delays.length = 0;
    const start = performance.now();
    for (const [index, event] of events.entries()) {
      const wait = start + index * 1_000 / PER_SECOND - performance.now();
      if (wait > 0) await pause(wait);
      sent.set(event.id, performance.now());
      void mouth.publish(event);
    }
    const end = performance.now() + 10_000;
    while (delays.length < events.length && performance.now() < end) await pause(10);
    verify("events that were handled", delays.length, events.length);
    const sorted = delays.toSorted((a, b) => a - b);
    return { count: 1, ms: sorted[Math.floor(sorted.length * percentile / 100)] ?? NaN };
  } finally {
    await mouth[Symbol.asyncDispose]();
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
