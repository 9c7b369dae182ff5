/**
 * A worker in a process of its own: takes messages until it is killed, and writes down on the server what it handled,
 * in one list, before it acknowledges. What it may have written too late to be the only one it says itself.
 *
 * Arguments: URL, prefix, topic, group, lease in ms. Of every seven messages one fails at its first attempt.
 */
import process from "node:process";
import { ioredisDriver, redis } from "../../../src/redis/mod.ts";

const [url = "", prefix = "", topic = "", group = "", lease = "0"] = process.argv.slice(2);
const leaseMs = Number(lease);
const LIMIT = { timeoutMs: 5_000 };

/** Notes who handled what, by the server's clock: `late` when the lease may have been over by then. */
const NOTE = {
  name: "note",
  source: `local time = redis.call('TIME')
local late = time[1] * 1000 + math.floor(time[2] / 1000) >= tonumber(ARGV[1])
return redis.call('RPUSH', KEYS[1], (late and 'late ' or 'handled ') .. ARGV[2])`,
};

const notes = ioredisDriver({ url }).connect("notes");
const broker = redis({ url, prefix });
const subscription = await retry(() => broker.subscribe(topic, group, { leaseMs }));
console.log("works");

for (;;) {
  try {
    const [seconds, micros] = await notes.call("time", [], LIMIT) as readonly string[];
    const until = Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000) + leaseMs;
    for (const delivery of await subscription.pull(5, { waitMs: 0 })) {
      const { id, attempt, redelivered } = delivery;
      if (attempt === 1 && Number(id.split(":")[1]) % 7 === 3) {
        await subscription.retry(delivery, 30, { error: "Sometimes", message: "fails", at: Date.now() });
        continue;
      }
      await notes.script(NOTE, [`${prefix}:notes`], [until, `${id} ${redelivered} ${process.pid}`], LIMIT);
      await subscription.ack([delivery]);
    }
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

async function retry<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
}
