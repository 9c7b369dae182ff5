/**
 * The outbox: in order, kept until marked, marked only by the holder of the lease.
 *
 * @module
 */
import type { OutboxMessage } from "../../../ports/outbox.ts";
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import { awkwardBodies, idsOf } from "../messages.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";

/** Registers the tests about {@linkcode Outbox}. */
export function outboxTests({ test }: StoreSuite): void {
  test("outbox: keeps messages in their order until they are marked, byte for byte", async (world) => {
    const { outbox, leases } = world.store;
    const lease = await leases.acquire(world.unique("relay"), "worker", 60_000);
    ok(lease, "lease");
    await emptyOutbox(world);
    const messages: OutboxMessage[] = awkwardBodies().map(([what, body], n) => (
      {
        id: world.unique("m"),
        type: "conformance.happened",
        key: `${what} ✓`,
        body,
        topic: `${world.topic}-${n}`,
      }
    ));
    await outbox.add(messages.slice(0, 1));
    await world.store.transaction((ports) => ports.outbox.add(messages.slice(1, 4)));
    await outbox.add(messages.slice(4));
    await outbox.add([]);
    const entries = await world.pending(messages.length);
    deepEqual(entries.map(({ position: _, ...message }) => message), messages, "all of them");
    deepEqual(await outbox.pending(10_000), entries, "all of them, asked again");
    deepEqual(idsOf(await outbox.pending(3)), idsOf(messages.slice(0, 3)), "the first three");
    await outbox.markSent(entries.slice(0, 2).map(({ position }) => position), lease);
    deepEqual(idsOf(await outbox.pending(10_000)), idsOf(messages.slice(2)), "what is left");
    await outbox.markSent(entries.slice(1, 4).map(({ position }) => position), lease);
    deepEqual(
      idsOf(await outbox.pending(10_000)),
      idsOf(messages.slice(4)),
      "what is left when marked twice",
    );
    await outbox.markSent(entries.map(({ position }) => position), lease);
    await outbox.markSent([], lease);
    deepEqual(await outbox.pending(10), [], "at last");
  });

  test("outbox: leaves an absent key absent", async (world) => {
    await world.store.outbox.add([outboxMessage(world)]);
    const [entry] = await world.pending(1);
    equal(entry?.key, undefined, "key");
  });

  test("outbox: a transaction that fails sends nothing", async (world) => {
    const work = world.store.transaction(async ({ outbox }) => {
      await outbox.add([outboxMessage(world)]);
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    const sent = outboxMessage(world);
    await world.store.outbox.add([sent]);
    deepEqual(idsOf(await world.pending(1)), [sent.id], "messages");
  });

  test("outbox: keeps each transaction's own order while several write", async (world) => {
    const stores = [world.store, await world.connect()];
    const batches = Array.from({ length: 8 }, () => Array.from({ length: 4 }, () => outboxMessage(world)));
    await Promise.all(batches.map((batch, n) =>
      stores[n % 2]!.transaction(async ({ outbox }) => {
        await outbox.add(batch.slice(0, 2));
        await world.sleep(n % 3 * 5);
        await outbox.add(batch.slice(2));
      })
    ));
    const ids = idsOf(await world.pending(32));
    equal(ids.length, 32, "messages");
    for (const batch of batches) {
      const own = new Set(idsOf(batch));
      deepEqual(ids.filter((id) => own.has(id)), idsOf(batch), "order within a transaction");
    }
  });

  test("outbox: messages of a later transaction never overtake those it has seen", async (world) => {
    const stores = [world.store, await world.connect()];
    const sent: string[] = [];
    for (let n = 0; n < 10; n++) {
      const message = outboxMessage(world);
      await stores[n % 2]!.transaction(({ outbox }) => outbox.add([message]));
      sent.push(message.id);
    }
    deepEqual(idsOf(await world.pending(10)), sent, "order of transactions that follow each other");
  });

  test("outbox: marks nothing for a worker whose lease is lost", async (world) => {
    const { outbox, leases } = world.store;
    const relay = world.unique("relay");
    await emptyOutbox(world);
    await outbox.add([outboxMessage(world), outboxMessage(world)]);
    const paused = await leases.acquire(relay, "paused", world.leaseMs);
    ok(paused, "lease");
    const entries = await world.pending(2);
    await world.sleep(world.leaseMs + 100);
    const owner = await (await world.connect()).leases.acquire(relay, "owner", 60_000);
    ok(owner, "the lease after it ran out");
    const positions = entries.map(({ position }) => position);
    await rejects(outbox.markSent(positions, paused), "LEASE_LOST", "markSent with a lost lease");
    deepEqual(await outbox.pending(10), entries, "messages afterwards");
    await outbox.markSent(positions, owner);
    deepEqual(await outbox.pending(10), [], "messages after the owner marked them");
  });

  test("outbox: tells how long the oldest message has been waiting", async (world) => {
    const { outbox, leases } = world.store;
    await emptyOutbox(world);
    ok(await outbox.oldestAgeMs() === 0, "age of nothing");
    await outbox.add([outboxMessage(world)]);
    await world.sleep(150);
    await outbox.add([outboxMessage(world)]);
    const age = await outbox.oldestAgeMs();
    ok(age >= 100 && age < 60_000, `after 150 ms the age is ${age} ms`);
    const lease = await leases.acquire(world.unique("relay"), "worker", 60_000);
    ok(lease, "lease");
    await outbox.markSent((await world.pending(2)).map(({ position }) => position), lease);
    ok(await outbox.oldestAgeMs() === 0, "age when all are sent");
  });
}

function outboxMessage(world: StoreWorld): OutboxMessage {
  return { ...world.event(), topic: world.topic };
}

/** Marks as sent what earlier tests have left. */
async function emptyOutbox(
  { store: { outbox, leases }, unique, clock, patienceMs }: StoreWorld,
): Promise<void> {
  const lease = await leases.acquire(unique("relay"), "worker", 60_000);
  ok(lease, "lease");
  await eventually(clock, patienceMs, "the outbox is empty", async () => {
    await outbox.markSent((await outbox.pending(10_000)).map(({ position }) => position), lease);
    return await outbox.oldestAgeMs() === 0;
  });
}
