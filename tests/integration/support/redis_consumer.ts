/**
 * A consumer in a process of its own: takes one delivery, says so, and then does what it is told line by line.
 *
 * Arguments: URL, prefix, topic, group, lease in ms.
 */
import process from "node:process";
import { createInterface } from "node:readline";
import { redis } from "../../../src/redis/mod.ts";

const [url = "", prefix = "", topic = "", group = "", leaseMs = "0"] = process.argv.slice(2);
const broker = redis({ url, prefix });
const subscription = await broker.subscribe(topic, group, { leaseMs: Number(leaseMs) });
const deliveries = await subscription.pull(1, { waitMs: 10_000 });
console.log(`took ${deliveries.map(({ id, attempt }) => `${id} ${attempt}`).join()}`);

for await (const line of createInterface({ input: process.stdin })) {
  if (line === "ack") {
    const lost = await subscription.ack(deliveries);
    console.log(`lost ${lost.length}`);
  }
  if (line === "end") break;
}
await broker[Symbol.asyncDispose]();
