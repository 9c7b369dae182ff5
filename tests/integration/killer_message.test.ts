import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import * as v from "valibot";
import { event, type Millstream, millstream } from "../../mod.ts";
import { postgres } from "../../src/postgres/mod.ts";
import { redis } from "../../src/redis/mod.ts";
import { startScript } from "../support/process.ts";
import { service } from "../support/require.ts";
import { dropSchema } from "./postgres_fixture.ts";
import { removeKeys } from "./support/redis_admin.ts";

const WORKER = new URL("./support/app_worker.ts", import.meta.url);
const LEASE_MS = 600;
const Job = event("job.wanted", v.object({ n: v.number(), kills: v.optional(v.string()) }));
const servers = { redis: service("redis"), postgres: service("postgres") };

for (const kind of ["redis", "postgres"] as const) {
  const { url, skip } = servers[kind];
  test(
    `${kind}: two messages that kill every process that handles them end as dead letters, their 38 neighbours do not`,
    { skip, timeout: 120_000 },
    async () => {
      const place = `killer_${randomUUID().replaceAll("-", "").slice(0, 12)}`;
      const app = open(kind, url, place);
      const handled = new Set<number>();
      let deaths = 0;
      try {
        await app.store.start();
        const killers = new Map([[7, "exit"], [23, "SIGKILL"]]);
        for (let n = 0; n < 40; n++) {
          await app.publish(Job, { n, ...(killers.has(n) ? { kills: killers.get(n)! } : {}) });
        }
        const deadline = performance.now() + 100_000;
        const dead = async (): Promise<number> => await app.deadLetters({ group: "g" }).count();
        while ((handled.size < 38 || await dead() < 2) && performance.now() < deadline) {
          const worker = startScript(WORKER, {
            args: [kind, place, String(LEASE_MS)],
            env: kind === "redis" ? { REDIS_URL: url } : { DATABASE_URL: url },
          });
          let isAlive = true;
          void worker.ended.then(() => isAlive = false);
          while (isAlive && (handled.size < 38 || await dead() < 2) && performance.now() < deadline) {
            await new Promise((resolve) => setTimeout(resolve, 50));
            for (const [, n] of worker.output().matchAll(/^handled (\d+)$/gm)) handled.add(Number(n));
          }
          if (!isAlive) deaths++;
          else await worker.kill9();
          for (const [, n] of worker.output().matchAll(/^handled (\d+)$/gm)) handled.add(Number(n));
        }
        const letters = await app.deadLetters({ group: "g" }).list();
        const numbers = letters.map(({ body }) => JSON.parse(body).data.n as number).sort((a, b) => a - b);
        assert.deepEqual(numbers, [7, 23], `dead letters after ${deaths} deaths`);
        assert.deepEqual(letters.map(({ failure }) => failure.error), ["CRASHED", "CRASHED"]);
        assert.equal(handled.size, 38);
        assert.ok(deaths >= 4 && deaths <= 12, `${deaths} deaths`);
        console.log(`# ${kind}: 40 messages, ${deaths} processes died, 2 dead letters, 38 handled`);
      } finally {
        await app.close();
        if (kind === "redis") await removeKeys(url, place);
        else await dropSchema(place);
      }
    },
  );
}

function open(kind: "redis" | "postgres", url: string, place: string): Millstream {
  return kind === "redis"
    ? millstream({ broker: redis({ url, prefix: place }) })
    : millstream({ store: postgres({ url, schema: place }) });
}
