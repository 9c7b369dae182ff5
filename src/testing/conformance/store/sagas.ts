/**
 * Sagas: claimed by one worker at a time, saved by the one who holds the claim.
 *
 * @module
 */
import type { ClaimedSaga, SagaInstance, SagaSave, SagaStatus } from "../../../ports/saga_store.ts";
import { deepEqual, equal, eventually, ok } from "../../assert.ts";
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
    deepEqual(await sagas.create([instance]), [true], "create");
    deepEqual(await sagas.load(instance.id), instance, "what is loaded");
    deepEqual(await sagas.create([{ ...instance, data: "other" }]), [false], "create again");
    deepEqual(await sagas.load(instance.id), instance, "what is loaded then");
    equal(await sagas.load(world.unique("id")), undefined, "one that does not exist");
  });

  test("sagas: of ten who create the same one, one does", async (world) => {
    const stores = [world.store, await world.connect()];
    const instance = sagaInstance(world, world.unique("saga"), world.unique("id"));
    const outcomes = await Promise.all(
      Array.from({ length: 10 }, (_, n) => stores[n % 2]!.sagas.create([instance])),
    );
    equal(outcomes.filter(([created]) => created).length, 1, "creators");
  });

  test("sagas: are claimed by one worker each, no more than the limit", async (world) => {
    const stores = [world.store, await world.connect()];
    const saga = world.unique("saga");
    const ids = Array.from({ length: 10 }, () => world.unique("id"));
    await world.store.sagas.create(ids.map((id) => sagaInstance(world, saga, id)));
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
    await sagas.create([due]);
    await sagas.create([sagaInstance(world, other, world.unique("id"))]);
    const later = world.clock.now() + 3_600_000;
    await sagas.create([{ ...sagaInstance(world, mine, world.unique("id")), dueAt: later }]);
    for (const status of ["completed", "compensated", "compensation_failed"] as const) {
      await sagas.create([{ ...sagaInstance(world, mine, world.unique("id")), status }]);
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
    await sagas.create([{ ...sagaInstance(world, saga, world.unique("id")), dueAt }]);
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
    await sagas.create([sagaInstance(world, saga, world.unique("id"))]);
    const paused = await claimOne(world, saga, "paused", world.leaseMs);
    const owner = await eventually(
      world.clock,
      world.patienceMs,
      "the claim runs out",
      async () => (await sagas.claim([saga], "owner", 60_000, 1))[0],
    );
    ok(owner.epoch > paused.epoch, "the epoch grows");
    deepEqual(await sagas.renew([paused], 60_000), [false], "renew by the former worker");
    const stale = { ...paused.instance, status: "completed" as const };
    deepEqual(await sagas.save([saving(paused, stale, true)]), [false], "save by the former worker");
    deepEqual(await sagas.load(stale.id), paused.instance, "what is saved");
    deepEqual(await sagas.renew([owner], 60_000), [true], "renew by the worker");
    await sagas.save([saving(owner, { ...owner.instance, data: "progress" }, false)]);
    equal((await sagas.load(stale.id))?.data, "progress", "what the worker saved");
  });

  test("sagas: those that are saved together are refused each by itself", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const ids = [world.unique("id"), world.unique("id")];
    deepEqual(
      await sagas.create([...ids, ids[0]!].map((id) => sagaInstance(world, saga, id))),
      [true, true, false],
      "created together, one of them twice",
    );
    const claims = await sagas.claim([saga], "one", world.leaseMs, 2);
    const first = claims.find(({ instance }) => instance.id === ids[0])!;
    const second = claims.find(({ instance }) => instance.id === ids[1])!;
    await sagas.save([saving(first, first.instance, true)]);
    const taken = (await sagas.take(ids[0]!, "two", 60_000))!;
    deepEqual(await sagas.renew([first, second], 60_000), [false, true], "renewed together");
    deepEqual(await sagas.renew([taken], 60_000), [true], "renewed by the next worker");
    const progress = [first, second].map((claim) => saving(claim, { ...claim.instance, data: "p" }, true));
    deepEqual(await sagas.save(progress), [false, true], "saved together");
    deepEqual((await sagas.load(ids[0]!))?.data, { step: 0 }, "data of the one that was lost");
    equal((await sagas.load(ids[1]!))?.data, "p", "data of the other one");
    deepEqual(
      [await sagas.save([]), await sagas.create([]), await sagas.renew([], 1_000)],
      [[], [], []],
      "none",
    );
  });

  test("sagas: one that is created for a holder is held from the start", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const instance = sagaInstance(world, saga, world.unique("id"));
    const holder = { owner: "one", leaseMs: world.leaseMs };
    deepEqual(await sagas.create([instance], holder), [true], "create");
    deepEqual(await sagas.claim([saga], "two", 60_000, 1), [], "claims by another");
    equal(await sagas.take(instance.id, "two", 60_000), undefined, "another takes it");
    const claimed: ClaimedSaga = { instance, owner: "one", epoch: 1 };
    deepEqual(await sagas.save([saving(claimed, { ...instance, data: 1 }, false)]), [true], "save");
    deepEqual(await sagas.create([instance], { owner: "two", leaseMs: 60_000 }), [false], "create again");
    deepEqual(await sagas.renew([claimed], world.leaseMs), [true], "still held by the first");
    const next = await eventually(
      world.clock,
      world.patienceMs,
      "the claim runs out",
      async () => (await sagas.claim([saga], "two", 60_000, 1))[0],
    );
    deepEqual([next.epoch, next.instance.data], [2, 1], "epoch and data of the next claim");
  });

  test("sagas: one can be taken by its id, due or not, ended or not, unless it is held", async (world) => {
    const { sagas } = world.store;
    const instance = {
      ...sagaInstance(world, world.unique("saga"), world.unique("id")),
      status: "completed" as const,
      dueAt: world.clock.now() + 3_600_000,
    };
    await sagas.create([instance]);
    const taken = await sagas.take(instance.id, "one", 60_000);
    deepEqual([taken?.instance, taken?.owner, taken?.epoch], [instance, "one", 1], "what was taken");
    equal(await sagas.take(instance.id, "two", 60_000), undefined, "taken again");
    deepEqual(await sagas.save([saving(taken!, instance, true)]), [true], "save");
    equal((await sagas.take(instance.id, "two", 60_000))?.epoch, 2, "epoch of the next");
    equal(await sagas.take(world.unique("id"), "two", 60_000), undefined, "one that does not exist");
  });

  test("sagas: a signal makes its instance due, is kept once, and may come first", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const id = world.unique("id");
    await sagas.signal(id, "early", "1");
    const never = world.clock.now() + 3_600_000;
    await sagas.create([{ ...sagaInstance(world, saga, id), status: "waiting", dueAt: never }]);
    deepEqual([...(await sagas.signals(id)).byName], [["early", "1"]], "what came first");
    deepEqual(await sagas.claim([saga], "one", 60_000, 1), [], "claims before a signal");
    await sagas.signal(id, "paid", "ü");
    await sagas.signal(id, "paid", "again");
    const claimed = await claimOne(world, saga, "one", 60_000);
    const { seen, byName } = await sagas.signals(id);
    deepEqual([...byName].sort(), [["early", "1"], ["paid", "ü"]], "signals");
    await sagas.save([{ ...saving(claimed, { ...claimed.instance, dueAt: never }, true), seen }]);
    deepEqual(await sagas.claim([saga], "two", 60_000, 1), [], "claims when all signals were seen");
    equal((await sagas.signals(world.unique("id"))).byName.size, 0, "signals of another");
  });

  test("sagas: a signal that comes between a look and the save that waits is not missed", async (world) => {
    const { sagas } = world.store;
    const other = (await world.connect()).sagas;
    const saga = world.unique("saga");
    const id = world.unique("id");
    await sagas.create([sagaInstance(world, saga, id)]);
    const claimed = await claimOne(world, saga, "one", 60_000);
    const { seen } = await sagas.signals(id);
    await other.signal(id, "paid", "1");
    const waiting = { ...claimed.instance, status: "waiting" as const, dueAt: world.clock.now() + 3_600_000 };
    deepEqual(await sagas.save([{ ...saving(claimed, waiting, true), seen }]), [true], "save");
    equal((await sagas.claim([saga], "two", 60_000, 1)).length, 1, "claims after the save");
  });

  test("sagas: saving keeps the claim or ends it, as asked", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    await sagas.create([sagaInstance(world, saga, world.unique("id"))]);
    const first = await claimOne(world, saga, "one", 60_000);
    await sagas.save([saving(first, { ...first.instance, data: 1 }, false)]);
    deepEqual(await sagas.claim([saga], "two", 60_000, 1), [], "claims while it is kept");
    await sagas.save([saving(first, { ...first.instance, data: 2 }, true)]);
    const second = await claimOne(world, saga, "two", 60_000);
    equal(second.instance.data, 2, "data of the next claim");
    ok(second.epoch > first.epoch, "the epoch grows");
    deepEqual(
      await sagas.save([saving(first, first.instance, false)]),
      [false],
      "save after the claim was ended",
    );
    const later = world.clock.now() + 3_600_000;
    await sagas.save([saving(second, { ...second.instance, dueAt: later }, true)]);
    deepEqual(await sagas.claim([saga], "three", 60_000, 1), [], "claims before it is due again");
    equal((await sagas.load(first.instance.id))?.dueAt, later, "when it is due again");
  });

  test("sagas: a renewed claim is kept", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    await sagas.create([sagaInstance(world, saga, world.unique("id"))]);
    const leaseMs = world.leaseMs * 3; // long enough for a machine that is busy with other things
    const claimed = await claimOne(world, saga, "one", leaseMs);
    for (let n = 0; n < 6; n++) {
      deepEqual(await sagas.renew([claimed], leaseMs), [true], "renew");
      await world.sleep(leaseMs / 4);
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
      await sagas.create([{ ...sagaInstance(world, a, `${prefix}-${(n * 3) % 5}`), status }]);
    }
    await sagas.create([sagaInstance(world, b, `${prefix}-9`)]);
    const list = async (filter: object): Promise<string> =>
      (await sagas.list({ limit: 100, ...filter })).map(({ id }) => id.at(-1)).join("");
    equal(await list({ saga: a }), "01234", "of one saga");
    equal(await list({ saga: a, status: "running" }), "012", "of one status");
    equal(await list({ saga: a, status: "compensation_failed" }), "4", "of another status");
    equal(await list({ saga: a, limit: 2 }), "01", "the first page");
    equal(await list({ saga: a, limit: 2, after: `${prefix}-1` }), "23", "the second page");
    const started = (await sagas.load(`${prefix}-0`))!.startedAt;
    equal(await list({ saga: a, startedBefore: started + 60_000 }), "01234", "of those started before");
    equal(await list({ saga: a, startedBefore: started - 60_000 }), "", "of those started long before");
    equal(await list({ limit: 6, after: prefix }), "012349", "of all sagas, those after an id");
    equal(await list({ saga: world.unique("saga") }), "", "of none");
  });

  test("sagas: those past their deadline are found until they have ended", async (world) => {
    const { sagas } = world.store;
    const saga = world.unique("saga");
    const now = Math.floor(world.clock.now());
    const prefix = world.unique("id");
    const late = { deadlineAt: now - 1_000 };
    await sagas.create([
      { ...sagaInstance(world, saga, `${prefix}-0`), ...late },
      { ...sagaInstance(world, saga, `${prefix}-1`), ...late, status: "completed" },
      { ...sagaInstance(world, saga, `${prefix}-2`), deadlineAt: now + 3_600_000 },
      sagaInstance(world, saga, `${prefix}-3`),
      { ...sagaInstance(world, saga, `${prefix}-4`), ...late, status: "needs_migration" },
    ]);
    const found = await sagas.list({ saga, overdueAt: now, limit: 10 });
    deepEqual(found.map(({ id }) => id), [`${prefix}-0`, `${prefix}-4`], "overdue");
  });
}

/** A new instance that is due. */
export function sagaInstance({ clock }: StoreWorld, saga: string, id: string): SagaInstance {
  const now = Math.floor(clock.now());
  return {
    id,
    saga,
    version: 1,
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

/** Progress to save. */
export function saving(claimed: ClaimedSaga, instance: SagaInstance, release: boolean): SagaSave {
  return { claimed, instance, release };
}
