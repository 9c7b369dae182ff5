/** What postgres_crash.test.ts kills. */
import process from "node:process";
import { postgres } from "../../src/postgres/mod.ts";
import { messages, openDriver, openPGlite } from "./postgres_fixture.ts";

const [mode = "", place = "", leaseMs = "0"] = process.argv.slice(2);
if (mode === "consumer") await holdDeliveries();
else await writeForEver();

async function holdDeliveries(): Promise<void> {
  const broker = postgres({ driver: openDriver(), schema: place }).broker();
  const group = await broker.subscribe("work", "workers", {
    leaseMs: Number(leaseMs),
  });
  const held = await group.pull(10, { waitMs: 5_000 });
  console.log("holds", ...held.map(({ id }) => id));
  await new Promise((resolve) => setTimeout(resolve, 60_000));
}

async function writeForEver(): Promise<void> {
  const store = postgres({ pglite: await openPGlite(place) });
  await store.start();
  const broker = store.broker();
  const group = await broker.subscribe("topic", "group");
  for (let count = 1;; count++) {
    await store.events.append([{
      stream: "stream",
      expected: count - 1,
      events: messages(1),
    }]);
    console.log("append", count);
    await broker.publish("topic", messages(1));
    console.log("publish", count);
    await group.ack(await group.pull(1, { waitMs: 1_000 }));
    console.log("settle", count);
    if (count % 20 === 0) console.log("wrote", count);
  }
}
