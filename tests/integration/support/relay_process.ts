/**
 * A relay in a process of its own, to a broker that is a table: every arrival is a row, repeats included.
 *
 * Arguments: schema, owner, lease in ms.
 */
import process from "node:process";
import { systemClock } from "../../../src/core/clock.ts";
import { startRelay } from "../../../src/messaging/relay.ts";
import { postgres } from "../../../src/postgres/mod.ts";
import { openDriver } from "../postgres_fixture.ts";

const [schema = "", owner = "", leaseMs = "0"] = process.argv.slice(2);
const store = postgres({ driver: openDriver(), schema });
await store.start();
startRelay({
  store,
  clock: systemClock,
  observer: () => {},
  random: Math.random,
  owner,
  leaseMs: Number(leaseMs),
  publisher: {
    async publish(_topic, messages) {
      await store.sql`insert into ${store.sql(`${schema}.arrivals`)}
        ${store.sql(messages.map(({ id, key = "" }) => ({ id, key, relay: owner })))}`;
    },
  },
});
console.log("relays");
