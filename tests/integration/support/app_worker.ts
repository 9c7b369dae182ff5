/**
 * An application in a process of its own that some messages kill: by `process.exit`, by SIGKILL, or by never letting go
 * of the thread. Says which numbers it handled.
 *
 * Arguments: "redis" or "postgres", prefix or schema, lease in ms.
 */
import process from "node:process";
import * as v from "valibot";
import { event, millstream } from "../../../mod.ts";
import { postgres } from "../../../src/postgres/mod.ts";
import { redis } from "../../../src/redis/mod.ts";

const [kind = "", place = "", lease = "0"] = process.argv.slice(2);
const Job = event("job.wanted", v.object({ n: v.number(), kills: v.optional(v.string()) }));
const app = kind === "redis"
  ? millstream({ broker: redis({ url: process.env.REDIS_URL ?? "", prefix: place }) })
  : millstream({ store: postgres({ url: process.env.DATABASE_URL ?? "", schema: place }) });

app.on(Job, { group: "g", concurrency: 16, leaseMs: Number(lease) }, async ({ data }) => {
  if (data.kills === "exit") process.exit(3);
  if (data.kills === "SIGKILL") process.kill(process.pid, "SIGKILL");
  await new Promise((resolve) => setTimeout(resolve, 20));
  console.log("handled", data.n);
});
await app.start();
console.log("works");
