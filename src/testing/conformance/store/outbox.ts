/**
 * The outbox: in order, kept until marked, marked only by the holder of the lease.
 *
 * @module
 */
import type { Failure } from "../../../ports/dead_letters.ts";
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
    const sent = entries.map(({ position: _, attempts: __, ...message }) => message);
    deepEqual(sent, messages, "all of them");
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

  test("outbox: the lane of a refused message waits, other lanes of its topic do not", async (world) => {
    const { outbox, leases } = world.store;
    await emptyOutbox(world);
    const lease = await leases.acquire(world.unique("relay"), "worker", 60_000);
    ok(lease, "lease");
    const [first, other, unkeyed, second] = [
      outboxMessage(world, "a"),
      outboxMessage(world, "b"),
      outboxMessage(world),
      outboxMessage(world, "a"),
    ];
    await outbox.add([first, other, unkeyed, second]);
    const [head] = await world.pending(4);
    ok(head, "a message");
    equal(head.attempts, 0, "attempts at first");
    await outbox.markRefused(head.position, refusal(world), 300, lease);
    deepEqual(idsOf(await outbox.pending(10)), idsOf([other, unkeyed]), "while the lane waits");
    const again = await world.pending(4);
    deepEqual(idsOf(again), idsOf([first, other, unkeyed, second]), "afterwards");
    deepEqual(again.map(({ attempts }) => attempts), [1, 0, 0, 0], "attempts");
    await outbox.markRefused(again[2]!.position, refusal(world), 60_000, lease);
    deepEqual(
      idsOf(await outbox.pending(10)),
      idsOf([first, other, second]),
      "while those without a key wait",
    );
  });

  test("outbox: a message that is given up is a dead letter, and its lane goes on", async (world) => {
    const { outbox, outboxDeadLetters: dead, leases } = world.store;
    await emptyOutbox(world);
    const lease = await leases.acquire(world.unique("relay"), "worker", 60_000);
    ok(lease, "lease");
    const [bad, worse, good] = [
      outboxMessage(world, "k"),
      outboxMessage(world, "k"),
      outboxMessage(world, "k"),
    ];
    await outbox.add([bad, worse, good]);
    const entries = await world.pending(3);
    const failure = { ...refusal(world), error: "TOO\u0000LARGE" };
    await outbox.markRefused(entries[0]!.position, refusal(world), 0, lease);
    for (const { position } of entries.slice(0, 2)) {
      await outbox.markRefused(position, failure, undefined, lease);
    }
    await outbox.markRefused(entries[0]!.position, refusal(world), undefined, lease); // is one already
    deepEqual(idsOf(await outbox.pending(10)), [good.id], "what is still to be sent");
    const letters = await dead.list({ topic: world.topic }, { limit: 10 });
    deepEqual(idsOf(letters), idsOf([bad, worse]), "dead letters, oldest first");
    const [letter, next] = letters;
    ok(letter && next, "two dead letters");
    deepEqual(
      [letter.body, letter.key, letter.group, letter.attempts, letter.redrives, letter.failure.message],
      [bad.body, "k", "outbox", 2, 0, failure.message],
      "a dead letter",
    );
    deepEqual(await dead.get(letter.deadLetterId), letter, "get");
    deepEqual(await dead.list({}, { limit: 10, after: letter.deadLetterId }), [next], "the page after it");
    equal(await dead.count({ topic: world.topic, group: "outbox", type: letter.type }), 2, "count");
    equal(await dead.count({ topic: world.topic, group: "other" }), 0, "count of another group");
    deepEqual(await dead.list({ before: failure.at - 1_000 }, { limit: 10 }), [], "those of an earlier time");

    equal(await dead.remove(next.deadLetterId), true, "remove");
    equal(await dead.redrive(letter.deadLetterId), true, "redrive");
    equal(await dead.redrive(letter.deadLetterId), false, "redrive again");
    equal(await dead.remove(next.deadLetterId), false, "remove again");
    for (const id of ["nope", "-1", "9".repeat(18), ""]) {
      equal(await dead.redrive(id), false, `redrive ${id}`);
    }
    const redriven = await world.pending(2);
    deepEqual(idsOf(redriven), idsOf([bad, good]), "in its old place");
    equal(redriven[0]!.attempts, 0, "attempts");
  });

  test("outbox: notes no refusal for a worker whose lease is lost", async (world) => {
    const { outbox, outboxDeadLetters: dead, leases } = world.store;
    await emptyOutbox(world);
    await outbox.add([outboxMessage(world)]);
    const relay = world.unique("relay");
    const paused = await leases.acquire(relay, "paused", 60_000);
    ok(paused, "lease");
    const [entry] = await world.pending(1);
    ok(entry, "a message");
    await leases.release(paused);
    ok(await leases.acquire(relay, "owner", 60_000), "the lease after it was given up");
    for (const delayMs of [60_000, undefined]) {
      const marking = outbox.markRefused(entry.position, refusal(world), delayMs, paused);
      await rejects(marking, "LEASE_LOST", "markRefused with a lost lease");
    }
    deepEqual(await outbox.pending(10), [entry], "messages afterwards");
    deepEqual(await dead.list({ topic: world.topic }, { limit: 1 }), [], "dead letters");
  });

  test("outbox: what was sent from a moment on can be sent again, in its place", async (world) => {
    const { outbox, leases } = world.store;
    await emptyOutbox(world);
    const lease = await leases.acquire(world.unique("relay"), "worker", 60_000);
    ok(lease, "lease");
    const [before, lost, unsent] = [outboxMessage(world), outboxMessage(world), outboxMessage(world)];
    await outbox.add([before, lost]);
    const [first, second] = await world.pending(2);
    ok(first && second, "two messages");
    await outbox.markSent([first.position], lease);
    await world.sleep(100);
    const since = world.clock.now();
    await world.sleep(100);
    await outbox.markSent([second.position], lease);
    await outbox.add([unsent]);
    await world.pending(1);
    equal(await outbox.unsend(since), 1, "unsend");
    deepEqual(await outbox.pending(1), [second], "the first to be sent again, under its id");
    deepEqual(idsOf(await outbox.pending(10)), idsOf([lost, unsent]), "all that is to be sent");
    equal(await outbox.unsend(world.clock.now() + 60_000), 0, "unsend from a later moment");
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

function outboxMessage(world: StoreWorld, key?: string): OutboxMessage {
  const { id, type, body } = world.event();
  return { id, type, body, topic: world.topic, ...(key === undefined ? {} : { key }) };
}

function refusal({ clock }: StoreWorld): Failure {
  return { error: "REFUSED", message: "not \u0000 now", at: clock.now() };
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
