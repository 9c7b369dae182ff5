import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { event, millstream } from "../../mod.ts";
import { memoryBroker } from "../../src/memory/broker.ts";
import type { Broker } from "../../src/ports/broker.ts";

const Placed = event("order.placed", v.object({ orderId: v.string() }));

/** A broker whose groups get only what is published after they were made. */
function forgetful(): Broker {
  const broker = memoryBroker();
  return {
    ...broker,
    features: { ...broker.features, replay: false, reasons: { replay: "for the test" } },
    subscribe: async (topic, group, options) => {
      await new Promise((resolve) => setTimeout(resolve, 30)); // as a server may take
      return await broker.subscribe(topic, group, { ...options, from: "now" });
    },
  };
}

test("what is published right after the start reaches its handler, also where a broker keeps nothing for later", async () => {
  const app = millstream({ broker: forgetful() });
  let handled = (): void => {};
  const done = new Promise<void>((resolve) => handled = resolve);
  app.on(Placed, { group: "billing" }, () => handled());
  await app.start();
  try {
    await app.publish(Placed, { orderId: "o-1" });
    await done;
    assert.deepEqual((await app.broker.groups()).map(({ group }) => group), ["billing"]);
  } finally {
    await app.close();
  }
});
