/** A process that runs the ledger's projection, to be killed or frozen. */
import process from "node:process";
import { postgres } from "../../src/postgres/mod.ts";
import { pause } from "../support/wait.ts";
import { openDriver } from "./postgres_fixture.ts";
import { ledger, run } from "./projections_fixture.ts";

const [schema = "", worker = "", delayMs = "0", batchSize = "100"] = process.argv.slice(2);
const store = postgres({ driver: openDriver(), schema, pollMs: 20 });
await store.start();
const options = { batchSize: Number(batchSize) };
run(store, ledger(schema, worker, options, () => pause(Number(delayMs))), (one) => {
  if (one.kind === "projected") console.log("projected", one.position);
  if (one.kind === "lease-lost") console.log("lease-lost");
  if (one.kind === "loop-failed") console.log("failed", one.error.message);
});
console.log("runs");
