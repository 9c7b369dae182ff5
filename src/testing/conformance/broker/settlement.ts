/**
 * Settlement: ack, retry, release, extend, and what happens to a delivery whose lease is lost.
 *
 * @module
 */
import type { Delivery } from "../../../ports/broker.ts";
import { deepEqual, equal, ok } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import { type BrokerSuite, failure } from "./world.ts";

/** Registers the tests about the end of deliveries. */
export function settlementTests({ test }: BrokerSuite): void {
  test("retries to the failing group only, with the next attempt, not before the delay", async (world) => {
    const failing = await world.subscribe("failing");
    const other = await world.subscribe("other");
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    const first = await world.one(failing);
    const start = world.clock.monotonic();
    equal(await failing.retry(first, 300, failure()), true, "retry");
    const second = await world.one(failing);
    const waited = world.clock.monotonic() - start;
    ok(waited >= 290, `a retry after 300 ms came after ${waited} ms`);
    deepEqual([second.id, second.attempt, second.body], [message.id, 2, message.body], "the second attempt");
    equal(await failing.retry(second, 0, failure()), true, "retry without a delay");
    const third = await world.one(failing);
    equal(third.attempt, 3, "attempt");
    await failing.ack([third]);
    equal((await world.one(other)).attempt, 1, "attempt of the other group");
    await world.nothing(failing, 100);
    await world.nothing(other, 100);
  });

  test("brings every message through when each fails three times", async (world) => {
    const group = await world.subscribe("workers");
    const messages = world.messages(20);
    await world.broker.publish(world.topic, messages);
    for (let attempt = 1; attempt <= 3; attempt++) {
      for (const delivery of await world.take(group, 20)) {
        equal(delivery.attempt, attempt, "attempt");
        await group.retry(delivery, 1, failure());
      }
    }
    const last = await world.collect(group, 20);
    deepEqual([...idsOf(last)].sort(), [...idsOf(messages)].sort(), "ids");
    for (const { attempt } of last) equal(attempt, 4, "attempt");
  });

  test("lets messages pass that are published while another waits for its retry", async (world) => {
    const group = await world.subscribe("workers");
    const [waiting, passing] = world.messages(2);
    ok(waiting && passing, "two messages");
    await world.broker.publish(world.topic, [waiting]);
    await group.retry(await world.one(group), 500, failure());
    await world.broker.publish(world.topic, [passing]);
    deepEqual(idsOf(await world.collect(group, 1)), [passing.id], "what comes first");
    deepEqual(idsOf(await world.collect(group, 1)), [waiting.id], "what comes then");
  });

  test("gives a released message back at once, to any consumer, without counting an attempt", async (world) => {
    const one = await world.subscribe("workers");
    const two = await world.subscribe("workers", { broker: await world.connect() });
    await world.broker.publish(world.topic, world.messages(3));
    const held = await world.take(one, 3);
    await one.retry(held[0]!, 0, failure());
    await one.release([await world.one(one), ...held.slice(1)]);
    const start = world.clock.monotonic();
    const again = await world.take(two, 3);
    ok(world.clock.monotonic() - start < 3_000, "released messages waited for their lease");
    const attempts = new Map(again.map(({ id, attempt }) => [id, attempt]));
    deepEqual(held.map(({ id }) => attempts.get(id)), [2, 1, 1], "attempts");
    await world.nothing(one, 100);
  });

  test("hands a message to another consumer when the lease of the first runs out, not before", async (world) => {
    const dead = await world.subscribe("workers", { broker: await world.connect(), leaseMs: world.leaseMs });
    const alive = await world.subscribe("workers", { leaseMs: 30_000 });
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    const start = world.clock.monotonic();
    const first = await world.one(dead);
    const again = await world.one(alive);
    const waited = world.clock.monotonic() - start;
    ok(waited >= world.leaseMs * 0.9, `a lease of ${world.leaseMs} ms ended after ${waited} ms`);
    deepEqual([again.id, again.attempt, again.redelivered], [message.id, 1, true], "the second delivery");
    deepEqual([first.attempt, first.redelivered], [1, false], "the first delivery");
    deepEqual(await alive.ack([again]), [], "lost leases");
    await world.nothing(alive, world.leaseMs + 100);
  });

  test("comes again to the same consumer, too, when the lease runs out", async (world) => {
    const group = await world.subscribe("workers", { leaseMs: world.leaseMs });
    await world.broker.publish(world.topic, world.messages(3));
    const first = await world.take(group, 3);
    const again = await world.take(group, 3);
    deepEqual([...idsOf(again)].sort(), [...idsOf(first)].sort(), "ids");
    for (const { attempt, redelivered } of again) {
      deepEqual([attempt, redelivered], [1, true], "facts of a redelivery");
    }
  });

  test(
    "refuses and reports whatever the former owner of a lost lease does, and the new owner notices nothing",
    async (world) => {
      const paused = await world.subscribe("workers", {
        broker: await world.connect(),
        leaseMs: world.leaseMs,
      });
      const owner = await world.subscribe("workers", { leaseMs: 30_000 });
      await world.broker.publish(world.topic, world.messages(5));
      const [acked, retried, dead, extended, released] = await world.take(paused, 5);
      ok(acked && retried && dead && extended && released, "five deliveries");
      const owned = await world.take(owner, 5);

      deepEqual(idsOf(await paused.ack([acked])), [acked.id], "what ack reports as lost");
      equal(await paused.retry(retried, 0, failure()), false, "retry");
      equal(await paused.deadLetter(dead, failure()), false, "deadLetter");
      deepEqual(idsOf(await paused.extend([extended])), [extended.id], "what extend reports as lost");
      await paused.release([released]);

      await world.nothing(paused, 100);
      const kept = await world.broker.deadLetters.list({ topic: world.topic }, { limit: 10 });
      deepEqual(idsOf(kept), [], "dead letters");
      deepEqual(await owner.extend(owned), [], "what the owner's extend reports as lost");
      deepEqual(await owner.ack(owned), [], "what the owner's ack reports as lost");
      await world.nothing(owner, world.leaseMs + 100);
    },
    ["fencedAck"],
  );

  test("settles what is still held in a call that also names lost deliveries", async (world) => {
    const slow = await world.subscribe("workers", { leaseMs: world.leaseMs });
    const owner = await world.subscribe("workers", { leaseMs: 30_000 });
    const [first, second] = world.messages(2);
    ok(first && second, "two messages");
    await world.broker.publish(world.topic, [first]);
    const lost = await world.one(slow);
    const owned = await world.one(owner);
    await world.broker.publish(world.topic, [second]);
    const held = await world.one(slow);
    deepEqual(idsOf(await slow.ack([lost, held])), [first.id], "what ack reports as lost");
    deepEqual(await owner.ack([owned]), [], "what the owner's ack reports as lost");
    await world.nothing(owner, world.leaseMs + 100);
  }, ["fencedAck"]);

  test("keeps a lease that is extended in time", async (world) => {
    const leaseMs = world.leaseMs * 3; // long enough for a machine that is busy with other things
    const slow = await world.subscribe("workers", { leaseMs });
    const eager = await world.subscribe("workers", { broker: await world.connect() });
    await world.broker.publish(world.topic, [world.message()]);
    const delivery = await world.one(slow);
    const stolen: Delivery[] = [];
    for (let n = 0; n < 6; n++) {
      deepEqual(await slow.extend([delivery]), [], "what extend reports as lost");
      stolen.push(...await eager.pull(1, { waitMs: leaseMs / 4 }));
    }
    deepEqual(idsOf(stolen), [], "what another consumer got meanwhile");
    deepEqual(await slow.ack([delivery]), [], "what ack reports as lost");
    await world.nothing(eager, world.leaseMs + 100);
  });

  test("takes a second settlement for what it is: nothing", async (world) => {
    const group = await world.subscribe("workers", { leaseMs: world.leaseMs });
    await world.broker.publish(world.topic, world.messages(3));
    const [acked, released, dead] = await world.take(group, 3);
    ok(acked && released && dead, "three deliveries");
    await group.ack([acked]);
    await group.ack([acked, acked]);
    await group.retry(acked, 0, failure());
    await group.deadLetter(acked, failure());
    await group.release([acked]);
    await group.deadLetter(dead, failure());
    await group.deadLetter(dead, failure());
    await group.ack([dead]);
    await group.release([released]);
    await group.release([released]);
    deepEqual(idsOf(await world.collect(group, 1)), [released.id], "what comes again");
    await world.nothing(group, world.leaseMs + 100);
    const kept = await world.broker.deadLetters.list({ topic: world.topic }, { limit: 10 });
    deepEqual(idsOf(kept), [dead.id], "dead letters");
  }, ["fencedAck"]);

  test("settles only the deliveries it is given", async (world) => {
    const group = await world.subscribe("workers", { leaseMs: world.leaseMs });
    await world.broker.publish(world.topic, world.messages(5));
    const held = await world.take(group, 5);
    await group.ack(held.slice(0, 3));
    const again = await world.collect(group, 2);
    deepEqual([...idsOf(again)].sort(), [...idsOf(held.slice(3))].sort(), "what comes again");
  });

  test("accepts empty lists", async (world) => {
    const group = await world.subscribe("workers");
    deepEqual(await group.ack([]), [], "ack");
    deepEqual(await group.extend([]), [], "extend");
    await group.release([]);
  });
}
