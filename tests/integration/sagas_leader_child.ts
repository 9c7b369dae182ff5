/** What sagas_leader.test.ts freezes: drives slow sagas, and says when it lost one. */
import process from "node:process";
import { millstream } from "../../mod.ts";
import { postgres } from "../../src/postgres/mod.ts";
import { openDriver } from "./postgres_fixture.ts";
import { LEASE_MS, slowSteps } from "./sagas_slow.ts";

const [schema = ""] = process.argv.slice(2);
const store = postgres({ driver: openDriver(), schema, migrate: false });
const app = millstream({
  store,
  sagas: { leaseMs: LEASE_MS, pollMs: 50 },
  observer(seen) {
    if (seen.kind === "lease-lost") console.log("lost", seen.id);
    if (seen.kind === "saga") console.log("saga", seen.id, seen.step, seen.status);
  },
});
await app.use(slowSteps()).start();
