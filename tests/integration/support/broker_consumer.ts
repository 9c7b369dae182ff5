/**
 * A consumer in a process of its own: says what it took, then acknowledges it, until it is killed.
 *
 * Arguments: URL, prefix, topic, group, lease in ms.
 */
import { writeSync } from "node:fs";
import process from "node:process";
import { kafka } from "../../../adapters/kafka/mod.ts";
import { nats } from "../../../adapters/nats/mod.ts";
import { rabbitmq } from "../../../adapters/rabbitmq/mod.ts";
import type { Broker } from "../../../src/ports/broker.ts";

const [url = "", prefix = "", topic = "", group = "", leaseMs = "0"] = process.argv.slice(2);
const broker = open();
for (;;) {
  try {
    const subscription = await broker.subscribe(topic, group, { leaseMs: Number(leaseMs) });
    writeSync(1, "joined\n");
    for (;;) {
      const deliveries = await subscription.pull(20, { waitMs: 1_000 });
      // Before the acknowledgement: what is said may be repeated, what is not said would be lost.
      for (const { id } of deliveries) writeSync(1, `handled ${id}\n`);
      await subscription.ack(deliveries);
    }
  } catch {
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

function open(): Broker {
  if (url.startsWith("amqp:")) return rabbitmq({ url, prefix });
  if (url.startsWith("kafka:")) return kafka({ url, prefix, sessionTimeoutMs: 1_000, fetchWaitMs: 50 });
  return nats({ url, prefix, ackWaitMs: 1_000 });
}
