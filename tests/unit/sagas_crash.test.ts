/** The process dies at every point where it talks to its store or to others; another one resumes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryStore } from "../../src/memory/store.ts";
import { virtualClock } from "../../src/testing/mod.ts";
import { checkRun, fourSteps, mortal, newRun, orchestrate, type Way, WAYS } from "./sagas_crash_points.ts";

const NEVER = new Promise<never>(() => {});

/** Runs a saga whose first process dies at a point, to its end. Returns the points it passed. */
async function run(way: Way, at: number): Promise<readonly string[]> {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const effects: string[] = [];
  const calls: string[] = [];
  const world = {
    // deno-lint-ignore require-await -- others answer later
    async act(key: string): Promise<void> {
      calls.push(key);
      if (!effects.includes(key)) effects.push(key);
    },
  };
  await store.sagas.create([newRun("four", "s", clock.now())]);
  const first = mortal(store, world, at, () => NEVER);
  const p1 = orchestrate(first.store, [fourSteps("four", way, first.world)], "p1", { clock });
  await clock.advance(1_000);
  const died = first.points.length === at;
  const p2 = orchestrate(store, [fourSteps("four", way, world)], "p2", { clock });
  await clock.advance(60_000);
  const where = `dying ${first.points[at - 1] ?? "never"}`;
  checkRun(way, "s", await store.sagas.load("s"), effects, where);
  const repeated = calls.filter((key, index) => calls.indexOf(key) !== index);
  assert.ok(
    repeated.length <= (died ? 1 : 0),
    `${where}: only the call in doubt is repeated, got ${repeated}`,
  );
  await p2.stop();
  if (!died) await p1.stop();
  return first.points;
}

for (const way of WAYS) {
  test(`on the way ${way}, dying at any save and any step: another process ends it, each effect and undo once by key`, async () => {
    const points = await run(way, Infinity);
    assert.ok(points.length >= (way === "forward" ? 17 : 29), `${points.length} points`);
    for (let at = 1; at <= points.length; at++) {
      const passed = await run(way, at);
      assert.deepEqual(passed, points.slice(0, at), "it died where it was to die");
    }
    console.log(`# sagas in memory, ${way}: ${points.length} crash points, all ended as they should`);
  });
}
