/**
 * Transactions: everything together or nothing.
 *
 * @module
 */
import type { Store, StorePorts } from "../../../ports/store.ts";
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";
import { sagaInstance, saving } from "./sagas.ts";

/** Registers the tests about {@linkcode Store.transaction} and the life of a store. */
export function transactionTests({ test }: StoreSuite): void {
  test("commits what all ports wrote together, and returns what the work returned", async (world) => {
    const names = namesFor(world);
    equal(
      await world.store.transaction((ports) => writeEverywhere(world, ports, names)),
      "written",
      "result",
    );
    deepEqual(await written(world, world.store, names), [1, 1, 1, 5n, true, true, "done"], "what is there");
  });

  test("undoes what all ports wrote when the work fails, and throws the very error", async (world) => {
    const names = namesFor(world);
    for (const failure of [new Error("no"), { not: "an error" }, "text"]) {
      const work = world.store.transaction(async (ports) => {
        await writeEverywhere(world, ports, names);
        throw failure;
      });
      equal(await work.then(() => "resolved", (error: unknown) => error), failure, "the error");
    }
    deepEqual(
      await written(world, world.store, names),
      [0, 0, 0, 0n, false, false, "started"],
      "what is there",
    );
  });

  test("undoes changes and removals as well, not only what is new", async (world) => {
    const { store } = world;
    const names = namesFor(world);
    const other = world.unique("key");
    await store.transaction((ports) => writeEverywhere(world, ports, names));
    const lease = await store.leases.acquire(world.unique("relay"), "worker", 60_000);
    const key = await store.idempotency.begin(other, "f", 60_000);
    ok(lease && key.state === "started", "lease and key");
    await world.sleep(100);
    const work = store.transaction(async (ports) => {
      const pending = await ports.outbox.pending(10_000);
      await ports.outbox.markSent(pending.map(({ position }) => position), lease);
      ok(await ports.inbox.forget(50) >= 1, "forgotten");
      await ports.checkpoints.advance(names.checkpoint, 5n, 9n);
      await ports.leases.release(lease);
      const [claimed] = await ports.sagas.claim([names.saga], "worker", 60_000, 1);
      ok(claimed, "claimed");
      await ports.sagas.save([saving(claimed, { ...claimed.instance, status: "completed" }, true)]);
      await ports.idempotency.abandon(other, key.epoch);
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    deepEqual(await written(world, store, names), [1, 1, 1, 5n, true, true, "done"], "what is there");
    equal(await store.leases.renew(lease, 60_000), true, "renew of the lease");
    equal((await store.sagas.load(names.sagaId))?.status, "running", "status of the saga");
    equal((await store.idempotency.begin(other, "f", 60_000)).state, "running", "state of the key");
    equal(
      (await store.sagas.claim([names.saga], "other", 60_000, 1)).length,
      1,
      "claims, as the first was undone",
    );
  });

  test("runs 20 transactions at the same time, and every one commits", async (world) => {
    const stores = [world.store, await world.connect()];
    const group = world.unique("group");
    await Promise.all(
      Array.from({ length: 20 }, (_, n) =>
        stores[n % 2]!.transaction(async ({ inbox, outbox }) => {
          equal(await inbox.record(group, `m-${n}`), true, "record");
          await outbox.add([{ ...world.event(), topic: world.topic }]);
        })),
    );
    const ids = Array.from({ length: 20 }, (_, n) => `m-${n}`);
    equal((await world.store.inbox.seen(group, ids)).size, 20, "ids in the inbox");
    equal((await world.pending(20)).length, 20, "messages in the outbox");
  });

  test("starts and answers, also several at once", async (world) => {
    const other = await world.connect();
    await Promise.all([world.store.start(), other.start(), world.store.start()]);
    await Promise.all([world.store.ping(), other.ping()]);
    ok(world.store.name.length > 0, "a store has a name");
  });

  test("a closed store says so, whatever it is asked, and closes only once", async (world) => {
    const store = world.under.secondConnection ? await world.connect() : world.store;
    await Promise.all([store[Symbol.asyncDispose](), store[Symbol.asyncDispose]()]);
    await store[Symbol.asyncDispose]();
    await rejects(store.ping(), "CLOSED", "ping");
    await rejects(store.transaction(() => Promise.resolve()), "CLOSED", "transaction");
    await rejects(store.events.readStream("s"), "CLOSED", "readStream");
    await rejects(store.outbox.pending(1), "CLOSED", "pending");
    await rejects(store.checkpoints.load("c"), "CLOSED", "load");
  });

  test("its broker carries a message", async (world) => {
    const broker = world.store.broker();
    try {
      const topic = world.unique("topic");
      const group = await broker.subscribe(topic, "readers");
      await broker.publish(topic, [world.event()]);
      const some = await group.pull(1, { waitMs: world.patienceMs });
      equal(some.length, 1, "deliveries");
      deepEqual(await group.ack(some), [], "lost leases");
      await group[Symbol.asyncDispose]();
    } finally {
      await broker[Symbol.asyncDispose]();
    }
  });

  test("what was committed is there after a restart", async (world) => {
    const { restart } = world.under;
    ok(restart, "restart");
    const names = namesFor(world);
    await world.store.transaction((ports) => writeEverywhere(world, ports, names));
    const reopened = await restart();
    await reopened.start();
    deepEqual(await written(world, reopened, names), [1, 1, 1, 5n, true, true, "done"], "what is there");
  }, ["restart"]);
}

interface Names {
  readonly stream: string;
  readonly message: string;
  readonly checkpoint: string;
  readonly lease: string;
  readonly saga: string;
  readonly sagaId: string;
  readonly key: string;
}

function namesFor({ unique }: StoreWorld): Names {
  return {
    stream: unique("stream"),
    message: unique("m"),
    checkpoint: unique("checkpoint"),
    lease: unique("lease"),
    saga: unique("saga"),
    sagaId: unique("instance"),
    key: unique("key"),
  };
}

async function writeEverywhere(world: StoreWorld, ports: StorePorts, names: Names): Promise<string> {
  await ports.events.append([{ stream: names.stream, expected: 0, events: world.events(1) }]);
  await ports.outbox.add([{ ...world.event(), topic: world.topic }]);
  equal(await ports.inbox.record("group", names.message), true, "record");
  await ports.checkpoints.advance(names.checkpoint, 0n, 5n);
  ok(await ports.leases.acquire(names.lease, "owner", 60_000), "acquire");
  deepEqual(await ports.sagas.create([sagaInstance(world, names.saga, names.sagaId)]), [true], "create");
  const begun = await ports.idempotency.begin(names.key, "f", 60_000);
  ok(begun.state === "started", "begin");
  await ports.idempotency.complete(names.key, begun.epoch, '"result"', 60_000);
  return "written";
}

/** What {@linkcode writeEverywhere} left: events, messages, inbox, checkpoint, lease, saga, key. */
async function written(world: StoreWorld, store: Store, names: Names): Promise<readonly unknown[]> {
  const events = await store.events.readStream(names.stream);
  return [
    events.length,
    (await world.pending(events.length, store)).length,
    (await store.inbox.seen("group", [names.message])).size,
    await store.checkpoints.load(names.checkpoint),
    await store.leases.acquire(names.lease, "somebody else", 1) === undefined,
    await store.sagas.load(names.sagaId) !== undefined,
    (await store.idempotency.begin(names.key, "f", 1)).state,
  ];
}
