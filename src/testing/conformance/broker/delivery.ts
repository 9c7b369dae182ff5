/**
 * Delivery: who gets which message, and how pulling waits.
 *
 * @module
 */
import { beside, deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { BrokerSuite } from "./world.ts";

/** Registers the tests about groups and {@linkcode Subscription.pull}. */
export function deliveryTests({ test }: BrokerSuite): void {
  test("hands every message to the group, as a first attempt, and forgets it when it is acknowledged", async (world) => {
    const group = await world.subscribe("readers", { leaseMs: world.leaseMs });
    const messages = world.messages(100);
    await world.broker.publish(world.topic, messages);
    const deliveries = await world.collect(group, 100);
    deepEqual([...idsOf(deliveries)].sort(), [...idsOf(messages)].sort(), "ids");
    for (const { attempt, redelivered, topic, group: name } of deliveries) {
      deepEqual(
        [attempt, redelivered, topic, name],
        [1, false, world.topic, "readers"],
        "facts of a first delivery",
      );
    }
    await world.nothing(group, world.leaseMs + 100);
  });

  test("hands every message to every group, whatever the others do", async (world) => {
    const groups = [
      await world.subscribe("fast"),
      await world.subscribe("slow"),
      await world.subscribe("idle"),
    ];
    const [fast, slow, idle] = groups;
    ok(fast && slow && idle, "three groups");
    const messages = world.messages(20);
    await world.broker.publish(world.topic, messages.slice(0, 10));
    const held = await world.take(slow, 5);
    await world.collect(fast, 10);
    await world.broker.publish(world.topic, messages.slice(10));
    await world.collect(fast, 10);
    await slow.ack(held);
    await world.collect(slow, 15);
    deepEqual(
      [...idsOf(await world.collect(idle, 20))].sort(),
      [...idsOf(messages)].sort(),
      "ids of the last group",
    );
  });

  test("keeps 5 topics apart that are written at the same time", async (world) => {
    const topics = Array.from({ length: 5 }, () => world.unique("topic"));
    await Promise.all(topics.map(async (topic) => {
      const group = await world.subscribe("readers", { topic });
      const messages = world.messages(20);
      await Promise.all(messages.map((message) => world.broker.publish(topic, [message])));
      deepEqual(
        [...idsOf(await world.collect(group, 20))].sort(),
        [...idsOf(messages)].sort(),
        `ids of ${topic}`,
      );
    }));
  });

  test("begins a new group with what was published before it", async (world) => {
    const early = await world.subscribe("early");
    const messages = world.messages(10);
    await world.broker.publish(world.topic, messages);
    await world.collect(early, 10);
    for (const name of ["late", "later"]) {
      const late = await world.subscribe(name, { from: "start" });
      deepEqual(
        [...idsOf(await world.collect(late, 10))].sort(),
        [...idsOf(messages)].sort(),
        `ids of "${name}"`,
      );
    }
  }, ["replay"]);

  test("begins a new group with what is published from now on, where asked to", async (world) => {
    await world.broker.publish(world.topic, world.messages(5));
    const group = await world.subscribe("late", { from: "now" });
    const messages = world.messages(3);
    await world.broker.publish(world.topic, messages);
    deepEqual([...idsOf(await world.collect(group, 3))].sort(), [...idsOf(messages)].sort(), "ids");
    await world.nothing(group, 150);
  });

  test("keeps a group without consumers, and continues it where it was", async (world) => {
    const before = await world.subscribe("readers");
    const messages = world.messages(6);
    await world.broker.publish(world.topic, messages.slice(0, 3));
    await world.collect(before, 3);
    await before[Symbol.asyncDispose]();
    await world.broker.publish(world.topic, messages.slice(3));
    const after = await world.subscribe("readers", { from: "now" });
    deepEqual([...idsOf(await world.collect(after, 3))].sort(), [...idsOf(messages.slice(3))].sort(), "ids");
  });

  test("shares a group's messages among consumers on several connections, each to one of them", async (world) => {
    const consumers = [];
    for (let n = 0; n < 4; n++) {
      consumers.push(await world.subscribe("workers", { broker: await world.connect() }));
    }
    const messages = world.messages(40);
    await world.broker.publish(world.topic, messages);
    const received: string[] = [];
    for (let round = 0; received.length < 40 && round < 100; round++) {
      for (const consumer of consumers) received.push(...idsOf(await consumer.pull(3, { waitMs: 50 })));
    }
    deepEqual([...received].sort(), [...idsOf(messages)].sort(), "ids, none of them acknowledged");
  });

  test("lets other messages pass while some are out", async (world) => {
    const group = await world.subscribe("readers");
    const messages = world.messages(3);
    await world.broker.publish(world.topic, messages);
    const one = await world.one(group);
    const two = await world.one(group);
    await group.ack([two]);
    const three = await world.one(group);
    await group.ack([three, one]);
    deepEqual([...idsOf([one, two, three])].sort(), [...idsOf(messages)].sort(), "ids");
  });

  test("never returns more than max, and keeps the rest for the next pull", async (world) => {
    const group = await world.subscribe("readers");
    await world.broker.publish(world.topic, world.messages(10));
    const sizes: number[] = [];
    for (let left = 10; left > 0;) {
      const some = await group.pull(3, { waitMs: world.patienceMs });
      ok(some.length > 0 && some.length <= 3, `a pull of at most 3 returned ${some.length}`);
      sizes.push(some.length);
      left -= some.length;
    }
    equal(sizes.reduce((sum, size) => sum + size, 0), 10, "deliveries in all");
  });

  test("returns nothing when the time to wait is up", async (world) => {
    const group = await world.subscribe("readers");
    const start = world.clock.monotonic();
    deepEqual(await group.pull(10, { waitMs: 200 }), [], "deliveries");
    const waited = world.clock.monotonic() - start;
    ok(waited >= 190 && waited < 200 + world.patienceMs, `a pull of 200 ms returned after ${waited} ms`);
    const again = world.clock.monotonic();
    deepEqual(await group.pull(10, { waitMs: 0 }), [], "deliveries without waiting");
    ok(world.clock.monotonic() - again < 1_000, "a pull without waiting waited");
  });

  test("ends a waiting pull when something is published", async (world) => {
    const group = await world.subscribe("readers");
    const pulling = beside(group.pull(10, { waitMs: world.patienceMs }));
    await world.sleep(100);
    const start = world.clock.monotonic();
    await world.broker.publish(world.topic, [world.message()]);
    equal((await pulling).length, 1, "deliveries");
    const waited = world.clock.monotonic() - start;
    ok(waited < 2_000, `the waiting pull returned ${waited} ms after the publish`);
  });

  test("stops a pull by its signal, while it waits and before it starts, and loses nothing by it", async (world) => {
    const group = await world.subscribe("readers", { leaseMs: world.leaseMs });
    await rejects(
      group.pull(1, { waitMs: 5_000, signal: AbortSignal.abort() }),
      "ABORTED",
      "pull, aborted before",
    );
    const controller = new AbortController();
    const waiting = group.pull(1, { waitMs: world.patienceMs * 2, signal: controller.signal });
    const pulling = beside(rejects(waiting, "ABORTED", "pull, aborted while waiting"));
    await world.sleep(100);
    const start = world.clock.monotonic();
    controller.abort();
    await pulling;
    ok(world.clock.monotonic() - start < 2_000, "the aborted pull went on waiting");
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    deepEqual(idsOf(await world.collect(group, 1)), [message.id], "what the next pull gets");
    await world.nothing(group, 150);
  });

  test("serves two pulls of one subscription at the same time, each message once", async (world) => {
    const group = await world.subscribe("readers");
    const pulls = [1, 2].map(() => beside(group.pull(5, { waitMs: world.patienceMs })));
    const messages = world.messages(10);
    await world.broker.publish(world.topic, messages);
    const received = [...idsOf((await Promise.all(pulls)).flat())];
    while (received.length < 10) received.push(...idsOf(await world.take(group, 1)));
    deepEqual(received.sort(), [...idsOf(messages)].sort(), "ids");
  });

  test("counts what is ready, in flight, delayed and dead", async (world) => {
    const group = await world.subscribe("readers");
    await world.broker.publish(world.topic, world.messages(6));
    const [one, two, three] = await world.take(group, 3);
    ok(one && two && three, "three deliveries");
    const reads = async (): Promise<readonly number[]> => {
      const { ready, inFlight, delayed, dead } = await group.lag();
      return [ready, inFlight, delayed, dead];
    };
    const settles = async (expected: readonly number[]): Promise<void> => {
      const end = world.clock.monotonic() + world.patienceMs;
      while (`${await reads()}` !== `${expected}` && world.clock.monotonic() < end) await world.sleep(50);
      deepEqual(await reads(), expected, "ready, in flight, delayed, dead");
    };
    await settles([3, 3, 0, 0]);
    await group.retry(one, 60_000, { error: "Timeout", message: "", at: 1 });
    await settles([3, 2, 1, 0]);
    await group.deadLetter(two, { error: "Timeout", message: "", at: 1 });
    await settles([3, 1, 1, 1]);
    await group.release([three]);
    await settles([4, 0, 1, 1]);
    await world.collect(group, 4);
    await settles([0, 0, 1, 1]);
  });
}
