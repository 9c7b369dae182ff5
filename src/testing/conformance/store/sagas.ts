/**
 * Sagas: claimed by one worker at a time, saved by the one who holds the claim.
 *
 * @module
 */
import type { ClaimedSaga, SagaInstance, SagaStatus } from "../../../ports/saga_store.ts";
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";

/** Registers the tests about {@linkcode SagaStore}. */
export function sagaTests({ test }: StoreSuite): void {
  test("sagas: are created once, and come back as they were", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const instance: SagaInstance = {
      ...sagaInstance(world, saga, world.unique("id")),
      data: { text: "ü \u0000 \ud800 ✓", list: [1, null, { deep: true }], big: 1e21, $ref: "__x" },
      steps: [
        { name: "reserve", status: "done", attempt: 2, startedAt: 1, endedAt: 2 },
        { name: "pay", status: "undo_failed", attempt: 1, error: 'it "failed"', startedAt: 3 },
      ],
      error: "broken\n",
    };
    equal(await sagas.create(instance), true, "create");
    deepEqual(await sagas.load(instance.id), instance, "what is loaded");
    equal(await sagas.create({ ...instance, data: "other" }), false, "create again");
    deepEqual(await sagas.load(instance.id), instance, "what is loaded then");
    equal(await sagas.load(world.unique("id")), undefined, "one that does not exist");
  });

  test("sagas: of ten who create the same one, one does", async (world) => {
    const stores = [world.store, await world.connect()];
    const instance = sagaInstance(world, world.unique("saga"), world.unique("id"));
    const outcomes = await Promise.all(
      Array.from({ length: 10 }, (_, n) => stores[n % 2]!.sagas.create(instance)),
    );
    equal(outcomes.filter((created) => created).length, 1, "creators");
  });

  test("sagas: are claimed by one worker each, no more than the limit", async (world) => {
    const stores = [world.store, await world.connect()];
    const saga = world.unique("saga");
    const ids = Array.from({ length: 10 }, () => world.unique("id"));
    for (const id of ids) await world.store.sagas.create(sagaInstance(world, saga, id));
    const claims = await Promise.all(Array.from(
      { length: 6 },
      (_, n) => stores[n % 2]!.sagas.claim([saga], `worker-${n}`, 60_000, 3),
    ));
    for (const [n, claimed] of claims.entries()) {
      ok(claimed.length <= 3, "claims of one worker");
      for (const { owner, instance } of claimed) {
        deepEqual([owner, instance.saga], [`worker-${n}`, saga], "owner and saga");
      }
    }
    const claimed = claims.flat().map(({ instance }) => instance.id);
    equal(new Set(claimed).size, claimed.length, "no instance is claimed twice");
    const rest = await world.store.sagas.claim([saga], "last", 60_000, 100);
    deepEqual(
      [...claimed, ...rest.map(({ instance }) => instance.id)].sort(),
      [...ids].sort(),
      "all are claimed",
    );
    deepEqual(await world.store.sagas.claim([saga], "late", 60_000, 100), [], "nothing is left");
  });

  test("sagas: only those that are due, unfinished and asked for are claimed", async (world) => {
    const { sagas } = world.store;
    const [mine, other] = [world.unique("saga"), world.unique("saga")];
    const due = { ...sagaInstance(world, mine, world.unique("id")), status: "compensating" as const };
    await sagas.create(due);
    await sagas.create(sagaInstance(world, other, world.unique("id")));
    await sagas.create({
      ...sagaInstance(world, mine, world.unique("id")),
      dueAt: world.clock.now() + 3_600_000,
    });
    for (const status of ["completed", "compensated", "compensation_failed"] as const) {
      await sagas.create({ ...sagaInstance(world, mine, world.unique("id")), status });
    }
    const claimed = await sagas.claim([mine], "worker", 60_000, 100);
    deepEqual(claimed.map(({ instance }) => instance), [due], "what is claimed");
    deepEqual(await sagas.claim([], "worker", 60_000, 100), [], "claims of no saga");
    equal((await sagas.claim([mine, other], "worker-2", 60_000, 100)).length, 1, "claims of both");
  });

  test("sagas: are claimed when they fall due", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const dueAt = world.clock.now() + 250;
    await sagas.create({ ...sagaInstance(world, saga, world.unique("id")), dueAt });
    await eventually(
      world.clock,
      world.patienceMs,
      "a claim",
      async () => (await sagas.claim([saga], "worker", 60_000, 1))[0],
    );
    const early = dueAt - world.clock.now();
    ok(early <= 20, `claimed ${early} ms before it was due`);
  });

  test("sagas: a claim that ran out goes to another worker, and the former one saves nothing", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    await sagas.create(sagaInstance(world, saga, world.unique("id")));
    const paused = await claimOne(world, saga, "paused", world.leaseMs);
    const owner = await eventually(
      world.clock,
      world.patienceMs,
      "the claim runs out",
      async () => (await sagas.claim([saga], "owner", 60_000, 1))[0],
    );
    ok(owner.epoch > paused.epoch, "the epoch grows");
    equal(await sagas.renew(paused, 60_000), false, "renew by the former worker");
    const stale = { ...paused.instance, status: "completed" as const };
    await rejects(sagas.save(paused, stale, true), "LEASE_LOST", "save by the former worker");
    deepEqual(await sagas.load(stale.id), paused.instance, "what is saved");
    equal(await sagas.renew(owner, 60_000), true, "renew by the worker");
    await sagas.save(owner, { ...owner.instance, data: "progress" }, false);
    equal((await sagas.load(stale.id))?.data, "progress", "what the worker saved");
  });

  test("sagas: a lost claim makes the whole transaction fail", async (world) => {
    const saga = world.unique("saga");
    await world.store.sagas.create(sagaInstance(world, saga, world.unique("id")));
    const paused = await claimOne(world, saga, "paused", world.leaseMs);
    await eventually(
      world.clock,
      world.patienceMs,
      "the claim runs out",
      async () => (await world.store.sagas.claim([saga], "owner", 60_000, 1))[0],
    );
    const effect = world.unique("effect");
    const work = world.store.transaction(async ({ checkpoints, sagas }) => {
      await checkpoints.advance(effect, 0n, 1n);
      await sagas.save(paused, paused.instance, false);
    });
    await rejects(work, "LEASE_LOST", "the transaction of the former worker");
    equal(await world.store.checkpoints.load(effect), 0n, "its effect");
  });

  test("sagas: saving keeps the claim or ends it, as asked", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    await sagas.create(sagaInstance(world, saga, world.unique("id")));
    const first = await claimOne(world, saga, "one", 60_000);
    await sagas.save(first, { ...first.instance, data: 1 }, false);
    deepEqual(await sagas.claim([saga], "two", 60_000, 1), [], "claims while it is kept");
    await sagas.save(first, { ...first.instance, data: 2 }, true);
    const second = await claimOne(world, saga, "two", 60_000);
    equal(second.instance.data, 2, "data of the next claim");
    ok(second.epoch > first.epoch, "the epoch grows");
    await rejects(sagas.save(first, first.instance, false), "LEASE_LOST", "save after the claim was ended");
    const later = world.clock.now() + 3_600_000;
    await sagas.save(second, { ...second.instance, dueAt: later }, true);
    deepEqual(await sagas.claim([saga], "three", 60_000, 1), [], "claims before it is due again");
    equal((await sagas.load(first.instance.id))?.dueAt, later, "when it is due again");
  });

  test("sagas: a renewed claim is kept", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    await sagas.create(sagaInstance(world, saga, world.unique("id")));
    const claimed = await claimOne(world, saga, "one", world.leaseMs);
    for (let n = 0; n < 6; n++) {
      equal(await sagas.renew(claimed, world.leaseMs), true, "renew");
      await world.sleep(world.leaseMs / 4);
      deepEqual(await sagas.claim([saga], "two", 60_000, 1), [], "claims by another");
    }
  });

  test("sagas: are listed by saga and status in order of id, page by page", async (world) => {
    const { sagas } = world.store;
    const [a, b] = [world.unique("saga"), world.unique("saga")];
    const statuses: readonly SagaStatus[] = [
      "running",
      "completed",
      "running",
      "compensation_failed",
      "running",
    ];
    const prefix = world.unique("id");
    for (const [n, status] of statuses.entries()) {
      await sagas.create({ ...sagaInstance(world, a, `${prefix}-${(n * 3) % 5}`), status });
    }
    await sagas.create(sagaInstance(world, b, `${prefix}-9`));
    const list = async (filter: object): Promise<string> =>
      (await sagas.list({ limit: 100, ...filter })).map(({ id }) => id.at(-1)).join("");
    equal(await list({ saga: a }), "01234", "of one saga");
    equal(await list({ saga: a, status: "running" }), "012", "of one status");
    equal(await list({ saga: a, status: "compensation_failed" }), "4", "of another status");
    equal(await list({ saga: a, limit: 2 }), "01", "the first page");
    equal(await list({ saga: a, limit: 2, after: `${prefix}-1` }), "23", "the second page");
    equal(await list({ limit: 6, after: prefix }), "012349", "of all sagas, those after an id");
    equal(await list({ saga: world.unique("saga") }), "", "of none");
  });
}

/** A new instance that is due. */
export function sagaInstance({ clock }: StoreWorld, saga: string, id: string): SagaInstance {
  const now = Math.floor(clock.now());
  return {
    id,
    saga,
    status: "running",
    data: { step: 0 },
    steps: [],
    correlationId: `correlation of ${id}`,
    dueAt: now - 1_000,
    startedAt: now,
    updatedAt: now,
  };
}

async function claimOne(
  { store }: StoreWorld,
  saga: string,
  owner: string,
  leaseMs: number,
): Promise<ClaimedSaga> {
  const [claimed, ...more] = await store.sagas.claim([saga], owner, leaseMs, 10);
  ok(claimed && more.length === 0, "one claim");
  return claimed;
}
