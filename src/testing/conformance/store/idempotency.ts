/**
 * Idempotency keys: one run, one result.
 *
 * @module
 */
import type { IdempotencyKeys } from "../../../ports/idempotency.ts";
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import { awkwardBodies } from "../messages.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode IdempotencyKeys}. */
export function idempotencyTests({ test }: StoreSuite): void {
  test("idempotency: the first runs, others are told that it runs, and later what it returned", async ({ store: { idempotency }, ...world }) => {
    for (const [what, result] of awkwardBodies()) {
      const key = world.unique(`key of ${what} ü {} % ✓`);
      const epoch = await start(idempotency, key, 60_000);
      deepEqual(await idempotency.begin(key, "f", 60_000), { state: "running" }, "while it runs");
      await idempotency.complete(key, epoch, result, 60_000);
      const done = await idempotency.begin(key, "f", 60_000);
      ok(done.state === "done" && done.result === result, `the result with ${what} was changed`);
    }
  });

  test("idempotency: a key that belongs to another request says so, running or done", async ({ store: { idempotency }, ...world }) => {
    const key = world.unique("key");
    const epoch = await start(idempotency, key, 60_000);
    deepEqual(await idempotency.begin(key, "other", 60_000), { state: "mismatch" }, "while it runs");
    await idempotency.complete(key, epoch, "1", 60_000);
    deepEqual(await idempotency.begin(key, "other", 60_000), { state: "mismatch" }, "when it is done");
    deepEqual(await idempotency.begin(key, "f", 60_000), { state: "done", result: "1" }, "the same request");
  });

  test("idempotency: of ten who begin at the same time, one runs", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const key = world.unique("key");
    const begun = Array.from({ length: 10 }, (_, n) => stores[n % 2]!.idempotency.begin(key, "f", 60_000));
    const states = (await Promise.all(begun)).map(({ state }) => state).sort();
    deepEqual(states, [...Array.from({ length: 9 }, () => "running"), "started"], "states");
  });

  test("idempotency: a run whose lease ran out is taken over with a higher epoch, and may not complete", async ({ store: { idempotency }, ...world }) => {
    const key = world.unique("key");
    const paused = await start(idempotency, key, world.leaseMs);
    const taken = await eventually(world.clock, world.patienceMs, "the lease runs out", async () => {
      const begun = await idempotency.begin(key, "f", 60_000);
      return begun.state === "started" && begun.epoch;
    });
    ok(taken > paused, "the epoch grows");
    equal(await idempotency.renew(key, paused, 60_000), false, "renew by the former runner");
    await rejects(
      idempotency.complete(key, paused, "0", 60_000),
      "LEASE_LOST",
      "complete by the former runner",
    );
    await idempotency.abandon(key, paused);
    deepEqual(await idempotency.begin(key, "f", 60_000), { state: "running" }, "after all that");
    equal(await idempotency.renew(key, taken, 60_000), true, "renew by the runner");
    await idempotency.complete(key, taken, "1", 60_000);
    deepEqual(await idempotency.begin(key, "f", 60_000), { state: "done", result: "1" }, "at last");
  });

  test("idempotency: a renewed run is not taken over", async ({ store: { idempotency }, ...world }) => {
    const key = world.unique("key");
    const leaseMs = world.leaseMs * 3; // long enough for a machine that is busy with other things
    const epoch = await start(idempotency, key, leaseMs);
    for (let n = 0; n < 6; n++) {
      equal(await idempotency.renew(key, epoch, leaseMs), true, "renew");
      await world.sleep(leaseMs / 4);
      deepEqual(await idempotency.begin(key, "f", 60_000), { state: "running" }, "another caller");
    }
  });

  test("idempotency: an abandoned run is free at once, also for another request", async ({ store: { idempotency }, ...world }) => {
    const key = world.unique("key");
    const first = await start(idempotency, key, 60_000);
    await idempotency.abandon(key, first);
    equal(await idempotency.renew(key, first, 60_000), false, "renew after abandon");
    const second = await idempotency.begin(key, "other", 60_000);
    ok(second.state === "started", "the next caller runs");
    await rejects(idempotency.complete(key, first, "0", 60_000), "LEASE_LOST", "complete after abandon");
    await idempotency.complete(key, second.epoch, "1", 60_000);
    await idempotency.abandon(key, second.epoch);
    deepEqual(
      await idempotency.begin(key, "other", 60_000),
      { state: "done", result: "1" },
      "a result is not abandoned",
    );
  });

  test("idempotency: a result is kept for its time, then the key is free", async ({ store: { idempotency }, ...world }) => {
    const key = world.unique("key");
    const epoch = await start(idempotency, key, 60_000);
    await idempotency.complete(key, epoch, "1", world.leaseMs);
    equal((await idempotency.begin(key, "f", 60_000)).state, "done", "at first");
    await eventually(world.clock, world.patienceMs, "the result expires", async () => {
      return (await idempotency.begin(key, "other", 60_000)).state === "started";
    });
  });
}

/** Registers the test of keys that are part of a store. */
export function idempotencyTransactionTests({ test }: StoreSuite): void {
  test("idempotency: a result commits with its transaction, or not at all", async ({ store, ...world }) => {
    const key = world.unique("key");
    const epoch = await start(store.idempotency, key, 60_000);
    const work = store.transaction(async ({ idempotency }) => {
      await idempotency.complete(key, epoch, "0", 60_000);
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    deepEqual(await store.idempotency.begin(key, "f", 60_000), { state: "running" }, "after the rollback");
    await store.transaction(({ idempotency }) => idempotency.complete(key, epoch, "1", 60_000));
    deepEqual(
      await store.idempotency.begin(key, "f", 60_000),
      { state: "done", result: "1" },
      "after the commit",
    );
  });
}

async function start(keys: IdempotencyKeys, key: string, leaseMs: number): Promise<number> {
  const begun = await keys.begin(key, "f", leaseMs);
  ok(begun.state === "started", `expected to start, got ${begun.state}`);
  return begun.epoch;
}
