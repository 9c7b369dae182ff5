/** What sagas_crash.test.ts kills: drives one saga and dies by SIGKILL at a point. */
import process from "node:process";
import { postgres } from "../../src/postgres/mod.ts";
import { fourSteps, mortal, orchestrate, type Way } from "../unit/sagas_crash_points.ts";
import { openDriver } from "./postgres_fixture.ts";
import { effectsIn } from "./sagas_effects.ts";

const [schema = "", name = "", way = "forward", at = "0", leaseMs = "1000"] = process.argv.slice(2);
const store = postgres({ driver: openDriver(), schema, migrate: false });
const first = mortal(store, effectsIn(store, schema), Number(at), () => {
  process.kill(process.pid, "SIGKILL");
  return new Promise<never>(() => {});
});
orchestrate(first.store, [fourSteps(name, way as Way, first.world)], `child-${name}`, {
  leaseMs: Number(leaseMs),
});
await new Promise((resolve) => setTimeout(resolve, 60_000));
