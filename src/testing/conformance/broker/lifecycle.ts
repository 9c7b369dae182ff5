/**
 * Opening, closing and crashing: consumers and connections come and go, and nothing is lost.
 *
 * @module
 */
import { isMillstreamError } from "../../../core/errors.ts";
import type { EncodedMessage } from "../../../core/message.ts";
import type { Broker, Subscription } from "../../../ports/broker.ts";
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import { type BrokerSuite, type BrokerWorld, failure } from "./world.ts";

/** Registers the tests about disposal and restarts. */
export function lifecycleTests({ test }: BrokerSuite): void {
  test("hands unsettled deliveries back when a consumer leaves", async (world) => {
    const leaving = await world.subscribe("workers", { broker: await world.connect(), leaseMs: 2_000 });
    const staying = await world.subscribe("workers");
    await world.broker.publish(world.topic, world.messages(5));
    const held = await world.take(leaving, 5);
    await leaving.ack(held.slice(0, 2));
    await leaving[Symbol.asyncDispose]();
    const again = await world.collect(staying, 3);
    deepEqual([...idsOf(again)].sort(), [...idsOf(held.slice(2))].sort(), "what comes to the other consumer");
    for (const { attempt } of again) equal(attempt, 1, "attempt");
    await world.nothing(staying, 100);
  });

  test("reads on through five consumers that come and go: none lost, none acknowledged twice", async (world) => {
    const messages = world.messages(100);
    const received: string[] = [];
    await (await world.subscribe("workers"))[Symbol.asyncDispose]();
    await world.broker.publish(world.topic, messages);
    for (let round = 0; round < 5; round++) {
      const consumer = await world.subscribe("workers", { leaseMs: world.leaseMs });
      const some = await world.take(consumer, 20);
      await consumer.ack(some);
      received.push(...idsOf(some));
      if (round < 4) await world.take(consumer, 5); // left unsettled
      await consumer[Symbol.asyncDispose]();
    }
    deepEqual(received.sort(), [...idsOf(messages)].sort(), "ids");
  });

  test("survives ten consumers that join and leave at the same time", async (world) => {
    await Promise.all(Array.from({ length: 10 }, async () => {
      const consumer = await world.broker.subscribe(world.topic, "workers");
      await consumer[Symbol.asyncDispose]();
    }));
    const messages = world.messages(50);
    await world.broker.publish(world.topic, messages);
    const last = await world.subscribe("workers");
    deepEqual([...idsOf(await world.collect(last, 50))].sort(), [...idsOf(messages)].sort(), "ids");
  });

  test("leaving while a pull waits ends the pull and strands nothing, however often it is asked", async (world) => {
    const leaving = await world.subscribe("workers", { leaseMs: world.leaseMs });
    const start = world.clock.monotonic();
    const pulling = leaving.pull(5, { waitMs: 60_000 }).then(
      ({ length }) => length,
      (error) => codeOf(error),
    );
    await world.sleep(100);
    await Promise.all([leaving[Symbol.asyncDispose](), leaving[Symbol.asyncDispose]()]);
    await leaving[Symbol.asyncDispose]();
    const outcome = await pulling;
    ok(
      outcome === 0 || outcome === "CLOSED" || outcome === "ABORTED",
      `the waiting pull ended with ${outcome}`,
    );
    ok(world.clock.monotonic() - start < world.patienceMs, "leaving waited for the pull's time");
    await rejects(leaving.pull(1, { waitMs: 0 }), "CLOSED", "pull after leaving");
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    deepEqual(
      idsOf(await world.collect(await world.subscribe("workers"), 1)),
      [message.id],
      "what the next one gets",
    );
  });

  test("a closed broker says so, whatever it is asked, and closes only once", async (world) => {
    const broker = world.under.secondConnection ? await world.connect() : world.broker;
    const subscription = await world.subscribe("workers", { broker });
    const pulling = subscription.pull(1, { waitMs: 60_000 }).catch(codeOf);
    await Promise.all([broker[Symbol.asyncDispose](), broker[Symbol.asyncDispose]()]);
    await broker[Symbol.asyncDispose]();
    await pulling;
    await rejects(broker.publish(world.topic, [world.message()]), "CLOSED", "publish");
    await rejects(broker.subscribe(world.topic, "workers"), "CLOSED", "subscribe");
    await rejects(broker.ping(), "CLOSED", "ping");
    await rejects(broker.deadLetters.list({}, { limit: 1 }), "CLOSED", "deadLetters.list");
    await rejects(subscription.pull(1, { waitMs: 0 }), "CLOSED", "pull");
    if (broker.log) {
      await rejects(broker.log.read(world.topic, "start", { limit: 1, waitMs: 0 }), "CLOSED", "log.read");
    }
  });

  test("closing a broker gives back what its consumers held", async (world) => {
    const leaving = await world.connect();
    const held = await world.subscribe("workers", { broker: leaving, leaseMs: 2_000 });
    const messages = world.messages(3);
    await world.broker.publish(world.topic, messages);
    await world.take(held, 3);
    await leaving[Symbol.asyncDispose]();
    const staying = await world.subscribe("workers");
    deepEqual([...idsOf(await world.collect(staying, 3))].sort(), [...idsOf(messages)].sort(), "ids");
  }, ["secondConnection"]);

  test("a connection that is closed while it publishes loses nothing that it confirmed", async (world) => {
    const group = await world.subscribe("readers", { leaseMs: world.leaseMs });
    const publisher = await world.connect();
    const confirmed: string[] = [];
    const refused: string[] = [];
    const publishing = world.messages(200).map((message) =>
      publisher.publish(world.topic, [message]).then(
        () => confirmed.push(message.id),
        (error) => codeOf(error) === "PUBLISH_INDETERMINATE" ? 0 : refused.push(message.id),
      )
    );
    await publisher[Symbol.asyncDispose]();
    await Promise.all(publishing);
    const received = new Set<string>();
    for (let quiet = false; !quiet;) {
      const some = await group.pull(100, { waitMs: 300 });
      for (const id of idsOf(some)) received.add(id);
      await group.ack(some);
      quiet = some.length === 0;
    }
    deepEqual(confirmed.filter((id) => !received.has(id)), [], "confirmed and lost");
    deepEqual(refused.filter((id) => received.has(id)), [], "refused and delivered");
  }, ["secondConnection"]);

  test(
    "a restart of the server loses nothing confirmed, brings back what was out, and keeps what was settled",
    async (world) => {
      const before = await world.subscribe("workers", { leaseMs: 2_000 });
      const messages = world.messages(50);
      await world.broker.publish(world.topic, messages.slice(0, 40));
      const held = await world.take(before, 20);
      deepEqual(await before.ack(held.slice(0, 10)), [], "lost leases");
      equal(await before.deadLetter(held[10]!, failure()), true, "deadLetter");
      equal(await before.retry(held[11]!, 100, failure()), true, "retry");
      const restart = world.under.restart;
      ok(restart, "restart");
      const broker = await restart();
      const after = await recovered(
        world,
        () => broker.subscribe(world.topic, "workers", { leaseMs: world.leaseMs }),
      );
      try {
        await recovered(world, () => broker.publish(world.topic, messages.slice(40)));
        const settled = new Set(idsOf(held.slice(0, 11)));
        await drained(world, after, idsOf(messages).filter((id) => !settled.has(id)));
        const dead = await recovered(
          world,
          () => broker.deadLetters.list({ topic: world.topic }, { limit: 10 }),
        );
        deepEqual(idsOf(dead), [held[10]!.id], "dead letters");
      } finally {
        await after[Symbol.asyncDispose]();
      }
    },
    ["persistent", "restart"],
  );

  test("publishing goes on through two restarts with the same ids, and everything arrives", async (world) => {
    const restart = world.under.restart;
    ok(restart, "restart");
    await (await world.subscribe("readers"))[Symbol.asyncDispose]();
    const messages = world.messages(300);
    let broker: Broker = world.broker;
    for (const [index, message] of messages.entries()) {
      if (index === 100 || index === 150) {
        const inTheAir = messages.slice(index, index + 20).map((next) =>
          broker.publish(world.topic, [next]).catch(codeOf)
        );
        broker = await restart();
        await Promise.all(inTheAir);
      }
      await recovered(world, () => broker.publish(world.topic, [message]));
    }
    const after = await recovered(
      world,
      () => broker.subscribe(world.topic, "readers", { leaseMs: world.leaseMs }),
    );
    try {
      await drained(world, after, idsOf(messages));
    } finally {
      await after[Symbol.asyncDispose]();
    }
  }, ["persistent", "restart"]);
}

/** Takes until all of `ids` have come. Repetitions are allowed: a crash may undo what was not yet settled. */
async function drained(
  world: BrokerWorld,
  subscription: Subscription,
  ids: readonly string[],
): Promise<void> {
  const missing = new Set(ids);
  await eventually(world.clock, world.patienceMs * 2, "all that was confirmed and not settled", async () => {
    const some: readonly EncodedMessage[] = await recovered(world, async () => {
      const deliveries = await subscription.pull(50, { waitMs: 300 });
      await subscription.ack(deliveries);
      return deliveries;
    });
    for (const id of idsOf(some)) missing.delete(id);
    return missing.size === 0;
  });
}

/** Repeats what fails because the server is away. */
function recovered<T>(world: BrokerWorld, work: () => Promise<T>): Promise<T> {
  return eventually(world.clock, world.patienceMs * 2, "the server is back", async () => {
    try {
      return { value: await work() };
    } catch (error) {
      if (isMillstreamError(error) && error.retryable) return undefined;
      throw error;
    }
  }).then(({ value }) => value);
}

function codeOf(error: unknown): string {
  return isMillstreamError(error) ? error.code : String(error);
}
