/**
 * Projections: one agreed state, and events put aside.
 *
 * @module
 */
import type { ParkedEvent, ProjectionControl } from "../../../ports/projections.ts";
import { isMillstreamError } from "../../../core/errors.ts";
import { deepEqual, equal, rejects } from "../../assert.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode ProjectionStore}. */
export function projectionTests({ test }: StoreSuite): void {
  test("projections: are loaded as they were saved, each save being the next revision", async ({ store: { projections }, ...world }) => {
    const first = control(world.unique("projection"));
    equal(await projections.load(first.name), undefined, "at first");
    await projections.save(first);
    deepEqual(await projections.load(first.name), { ...first, revision: 1 }, "after the first save");
    const second: ProjectionControl = {
      ...first,
      revision: 1,
      live: { ...first.live, state: "stopped", reason: 'no "table"' },
      next: { ...first.live, build: 2 },
      swapping: true,
    };
    await projections.save(second);
    deepEqual(await projections.load(first.name), { ...second, revision: 2 }, "after the second save");
  });

  test("projections: are saved by one of ten who loaded the same, also the first time", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const name = world.unique("projection");
    for (const revision of [0, 1]) {
      const outcomes = await Promise.all(Array.from({ length: 10 }, async (_, n) => {
        try {
          await stores[n % 2]!.projections.save({ ...control(name), revision });
          return "saved";
        } catch (error) {
          return isMillstreamError(error) ? error.code : String(error);
        }
      }));
      const expected = [...Array.from({ length: 9 }, () => "CONCURRENCY_CONFLICT"), "saved"];
      deepEqual(outcomes.sort(), expected, `outcomes from revision ${revision}`);
    }
    await rejects(
      store.projections.save({ ...control(world.unique("projection")), revision: 3 }),
      "CONCURRENCY_CONFLICT",
      "a revision that never was",
    );
  });

  test("projections: parked events are listed in order, by build, until they are taken off the list", async ({ store: { projections }, ...world }) => {
    const projection = world.unique("projection");
    for (const position of [30n, 9n, 9_007_199_254_740_993n]) {
      await projections.park(parkedEvent(projection, position));
    }
    await projections.park({ ...parkedEvent(projection, 10n), build: 2 });
    await projections.park({ ...parkedEvent(world.unique("projection"), 11n) });
    await projections.park({ ...parkedEvent(projection, 30n), error: "once more", attempts: 9 });
    const filter = { projection, build: 1, limit: 10 };
    const expected = [
      parkedEvent(projection, 9n),
      { ...parkedEvent(projection, 30n), error: "once more", attempts: 9 },
      parkedEvent(projection, 9_007_199_254_740_993n),
    ];
    deepEqual(await projections.parked(filter), expected, "all");
    deepEqual(await projections.parked({ ...filter, after: 9n, limit: 1 }), [expected[1]!], "one after 9");
    equal(await projections.countParked(projection, 1), 3, "how many");
    equal(await projections.unpark(projection, 1, 30n), true, "unpark");
    equal(await projections.unpark(projection, 1, 30n), false, "unpark again");
    equal(await projections.countParked(projection, 1), 2, "how many are left");
    equal(await projections.countParked(projection, 2), 1, "of the other build");
  });

  test("projections: nothing is parked when the transaction fails", async ({ store, ...world }) => {
    const projection = world.unique("projection");
    const work = store.transaction(async ({ projections }) => {
      await projections.park(parkedEvent(projection, 1n));
      await projections.save(control(projection));
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    equal(await store.projections.countParked(projection, 1), 0, "parked");
    equal(await store.projections.load(projection), undefined, "the control");
  });
}

function control(name: string): ProjectionControl {
  const live = { build: 1, version: 1, lanes: 4, state: "running" as const, startedAt: 1_700_000_000_000 };
  return { name, revision: 0, live, swapping: false };
}

function parkedEvent(projection: string, position: bigint): ParkedEvent {
  return {
    projection,
    build: 1,
    lane: 3,
    position,
    stream: "order-1",
    version: 7,
    id: "e-1",
    type: "order.placed",
    error: 'no "table" ☂',
    attempts: 3,
    parkedAt: 1_700_000_000_000,
  };
}
