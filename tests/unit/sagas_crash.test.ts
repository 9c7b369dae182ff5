/** The process dies at every point where it talks to its store; another one resumes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { refuse } from "../../src/core/errors.ts";
import type { SagaStore } from "../../src/ports/saga_store.ts";
import type { Store } from "../../src/ports/store.ts";
import { outside, sagaWorld, threeSteps, withSagas } from "./sagas_fixture.ts";

const NEVER = new Promise<never>(() => {});

/** A store whose process dies at the `point`th call: before it is done, or after it but before the caller knows. */
function dying(store: Store, point: number, when: "before" | "after"): { store: Store; calls: () => number } {
  let calls = 0;
  async function through<T>(call: () => Promise<T>): Promise<T> {
    const mine = ++calls;
    if (mine > point || (mine === point && when === "before")) return await NEVER;
    const result = await call();
    return mine === point ? await NEVER : result;
  }
  const patch = (sagas: SagaStore): Partial<SagaStore> => ({
    claim: (...args) => through(() => sagas.claim(...args)),
    save: (...args) => through(() => sagas.save(...args)),
    renew: (...args) => calls >= point ? NEVER : sagas.renew(...args),
  });
  return { store: withSagas(store, patch), calls: () => calls };
}

for (
  const { way, end, fails, effects } of [
    { way: "forward", end: "completed", fails: "", effects: ["s/a", "s/b", "s/c"] },
    { way: "back", end: "compensated", fails: "c", effects: ["s/a", "s/b", "s/c", "s/b/undo", "s/a/undo"] },
  ] as const
) {
  for (const when of ["before", "after"] as const) {
    test(`on the way ${way}, dying ${when} any save: another process ends it, each effect and undo once per key`, async () => {
      const points = await countPoints(fails);
      assert.ok(points >= 5);
      for (let point = 1; point <= points; point++) {
        const { clock, store, drive, start, load } = sagaWorld();
        const world = outside();
        const three = threeSteps(world, (step) => {
          if (step === fails) throw refuse("NO");
        });
        await start(three);
        const first = dying(store, point, when);
        drive(three, "p1", first.store);
        await clock.advance(1_000);
        assert.ok(first.calls() >= point, "it died");
        const second = drive(three, "p2");
        await clock.advance(60_000);
        const instance = await load();
        assert.equal(instance.status, end, `dying ${when} call ${point}`);
        // The refused step is in doubt if the process died in it, and then undone, which does no harm.
        const doubt = world.effects.includes("s/c/undo");
        assert.deepEqual(
          world.effects.filter((effect) => effect !== "s/c/undo"),
          effects,
          `dying ${when} call ${point}`,
        );
        if (doubt) assert.ok(fails, "nothing is undone on the way forward");
        const most = Math.max(
          ...effects.map((effect) => world.calls.filter((call) => call === effect).length),
        );
        assert.ok(most <= 2, "at most the call that was in doubt is repeated");
        assert.equal(new Set(world.effects).size, world.effects.length);
        await second.loop.stop();
      }
    });
  }

  test(`on the way ${way}, dying in the middle of any step or undo: the same`, async () => {
    const all = fails ? [...effects, "s/c"] : effects;
    for (const last of new Set(all)) {
      const { clock, store, drive, start, load } = sagaWorld();
      const world = outside();
      const refuseC = (step: string): void => {
        if (step === fails) throw refuse("NO");
      };
      // The first process gets as far as the effect of `last` and hears nothing from its store after that.
      let dead = false;
      const { act } = world;
      const dyingWorld = {
        ...world,
        act(context: Parameters<typeof act>[0]) {
          if (dead) return;
          act(context);
          if (context.idempotencyKey === last) dead = true;
        },
      };
      const cut = withSagas(store, (sagas) => ({
        claim: (...args) => dead ? NEVER : sagas.claim(...args),
        save: (...args) => dead ? NEVER : sagas.save(...args),
        renew: (...args) => dead ? NEVER : sagas.renew(...args),
      }));
      await start(threeSteps(world));
      drive(threeSteps(dyingWorld, refuseC), "p1", cut);
      await clock.advance(1_000);
      assert.equal(dead, true, last);
      const second = drive(threeSteps(world, refuseC), "p2");
      await clock.advance(60_000);
      assert.equal((await load()).status, end, last);
      assert.deepEqual(world.effects.filter((effect) => effect !== "s/c/undo"), effects, last);
      await second.loop.stop();
    }
  });
}

/** How often an undisturbed run talks to its store until it has ended. */
async function countPoints(fails: string): Promise<number> {
  const { clock, store, drive, start, load } = sagaWorld();
  const three = threeSteps(outside(), (step) => {
    if (step === fails) throw refuse("NO");
  });
  await start(three);
  const counting = dying(store, Infinity, "before");
  const { loop } = drive(three, "p1", counting.store);
  await clock.advance(1);
  assert.ok((await load()).status.startsWith("comp"));
  await loop.stop();
  return counting.calls();
}
