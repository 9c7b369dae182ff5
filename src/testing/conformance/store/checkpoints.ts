/**
 * Checkpoints: moved from where they stand, by one worker.
 *
 * @module
 */
import { isMillstreamError } from "../../../core/errors.ts";
import { deepEqual, equal, rejects } from "../../assert.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode Checkpoints}. */
export function checkpointTests({ test }: StoreSuite): void {
  test("checkpoints: begin at 0 and keep large positions exactly", async ({ store: { checkpoints }, ...world }) => {
    const name = world.unique("reader");
    equal(await checkpoints.load(name), 0n, "at first");
    await checkpoints.advance(name, 0n, 10n);
    equal(await checkpoints.load(name), 10n, "after an advance");
    await checkpoints.advance(name, 10n, 9_007_199_254_740_993n);
    equal(await checkpoints.load(name), 9_007_199_254_740_993n, "beyond what a double holds");
    equal(await checkpoints.load(world.unique("reader")), 0n, "another one");
  });

  test("checkpoints: refuse to move from where they do not stand", async ({ store: { checkpoints }, ...world }) => {
    const name = world.unique("reader");
    await rejects(checkpoints.advance(name, 5n, 10n), "LEASE_LOST", "the first advance, from 5");
    await checkpoints.advance(name, 0n, 10n);
    await rejects(checkpoints.advance(name, 0n, 20n), "LEASE_LOST", "an advance from 0");
    await rejects(checkpoints.advance(name, 9n, 20n), "LEASE_LOST", "an advance from 9");
    equal(await checkpoints.load(name), 10n, "afterwards");
  });

  test("checkpoints: let one of ten workers move them, also the first time", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const name = world.unique("reader");
    for (const from of [0n, 7n]) {
      const outcomes = await Promise.all(Array.from({ length: 10 }, async (_, n) => {
        try {
          await stores[n % 2]!.transaction(({ checkpoints }) => checkpoints.advance(name, from, from + 7n));
          return "moved";
        } catch (error) {
          return isMillstreamError(error) ? error.code : String(error);
        }
      }));
      const expected = ["moved", ...Array.from({ length: 9 }, () => "LEASE_LOST")];
      deepEqual(outcomes.sort().reverse(), expected, `outcomes from ${from}`);
      equal(await store.checkpoints.load(name), from + 7n, "afterwards");
    }
  });

  test("checkpoints: stay where they were when the transaction fails", async ({ store, ...world }) => {
    const name = world.unique("reader");
    await store.checkpoints.advance(name, 0n, 3n);
    const work = store.transaction(async ({ checkpoints }) => {
      await checkpoints.advance(name, 3n, 9n);
      equal(await checkpoints.load(name), 9n, "inside");
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    equal(await store.checkpoints.load(name), 3n, "afterwards");
  });

  test("checkpoints: stand at 0 again when they are removed", async ({ store: { checkpoints }, ...world }) => {
    const [name, other] = [world.unique("reader"), world.unique("reader")];
    await checkpoints.advance(name, 0n, 3n);
    await checkpoints.advance(other, 0n, 3n);
    await checkpoints.remove(name);
    await checkpoints.remove(world.unique("reader"));
    equal(await checkpoints.load(name), 0n, "the removed one");
    equal(await checkpoints.load(other), 3n, "the other one");
    await rejects(checkpoints.advance(name, 3n, 4n), "LEASE_LOST", "an advance from where it stood");
  });
}
