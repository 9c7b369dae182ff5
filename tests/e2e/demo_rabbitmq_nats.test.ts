import assert from "node:assert/strict";
import process from "node:process";
import { test } from "node:test";
import { startNats, startRabbitmq } from "../support/brokers.ts";
import { needs, service } from "../support/require.ts";
import { startDemo, temporaryFolder, toldToEnd } from "./support/cli.ts";
import { CONFIRMED, placeOrder, settledOrder } from "./support/orders.ts";

const { node, bun, deno } = process.versions as Record<string, string | undefined>;
const once = needs(
  "the demo on other brokers runs on one runtime",
  Number(node?.split(".")[0]) >= 24 && !bun && !deno,
);

const BROKERS = [
  ["rabbitmq", startRabbitmq, "RabbitMQ", "bytes not compared: the broker keeps no log"],
  ["nats", startNats, "NATS JetStream", "0 with other bytes"],
] as const;

for (const [name, start, words, bytes] of BROKERS) {
  const skip = once || service(`${name}-server`).skip;
  test(
    `the demo runs unchanged with ${words}: orders end, and all webhooks are handled`,
    { skip },
    async () => {
      await using server = await start();
      await using demo = await startDemo({ data: temporaryFolder(), broker: server.url }, []);
      assert.match(demo.process.output(), new RegExp(`PGlite in .* and ${words}$`, "m"));
      const line = await demo.process.line("GitHub webhooks: ", { withinMs: 90_000 });
      assert.match(
        line,
        new RegExp(`^GitHub webhooks: 329 sent, 329 handled, 0 dead-lettered, ${bytes}, \\d+/s$`),
      );
      const confirmed = await settledOrder(
        demo.address,
        await placeOrder(demo.address, { customerId: "c-3" }),
      );
      assert.deepEqual(confirmed.history, CONFIRMED);
      const declined = await settledOrder(
        demo.address,
        await placeOrder(demo.address, { customerId: "c-5" }),
      );
      assert.equal(declined.status, "cancelled");
      assert.deepEqual(await toldToEnd(demo), { code: 0, signal: null }, demo.process.output());
    },
  );
}
