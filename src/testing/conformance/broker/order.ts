/**
 * Key order: one key in order across all consumers of a group, other keys in parallel.
 *
 * @module
 */
import type { Broker, Subscription } from "../../../ports/broker.ts";
import { deepEqual, ok } from "../../assert.ts";
import { dataOf, idsOf } from "../messages.ts";
import { type BrokerSuite, type BrokerWorld, failure } from "./world.ts";

/** Registers the tests about `features.keyOrder`. */
export function orderTests({ test }: BrokerSuite): void {
  test(
    "handles each key in order across consumers on several connections, with retries in between",
    async (world) => {
      const keys = 12;
      const perKey = 12;
      const brokers: Broker[] = [world.broker, await world.connect(), await world.connect()];
      const consumers: Subscription[] = [];
      for (const broker of [...brokers, ...brokers]) {
        consumers.push(
          await world.subscribe("workers", { broker }),
        );
      }
      const messages = Array.from(
        { length: keys * perKey },
        (_, n) => world.message({ n: Math.floor(n / keys) }, { key: `key ${n % keys}` }),
      );
      await world.broker.publish(world.topic, messages);
      const { handled, overlaps } = await handleAll(world, consumers, messages.length);
      deepEqual(overlaps, [], "keys that were out twice at the same time");
      for (const [key, order] of handled) {
        deepEqual(order, Array.from({ length: perKey }, (_, n) => n), `order of "${key}"`);
      }
    },
    ["keyOrder"],
  );

  test("has one delivery of a key out at a time, in the whole group", async (world) => {
    const one = await world.subscribe("workers");
    const two = await world.subscribe("workers", { broker: await world.connect() });
    const messages = world.messages(3, { key: "k" });
    await world.broker.publish(world.topic, messages);
    for (const message of messages) {
      const some = await one.pull(10, { waitMs: world.patienceMs });
      deepEqual(idsOf(some), [message.id], "what is out");
      deepEqual(await two.pull(10, { waitMs: 100 }), [], "what another consumer gets");
      deepEqual(await one.pull(10, { waitMs: 0 }), [], "what the same consumer gets");
      await one.ack(some);
    }
  }, ["keyOrder"]);

  test("a key whose message waits for its retry holds back its own followers only", async (world) => {
    const group = await world.subscribe("workers");
    const a = world.messages(2, { key: "a" });
    const b = world.messages(3, { key: "b" });
    await world.broker.publish(world.topic, [...a, ...b]);
    const out = await world.take(group, 2);
    deepEqual([...idsOf(out)].sort(), [...idsOf([a[0]!, b[0]!])].sort(), "the first of each key");
    const failed = out.find(({ key }) => key === "a")!;
    const start = world.clock.monotonic();
    await group.retry(failed, 1_000, failure());
    await group.ack(out.filter(({ key }) => key === "b"));
    deepEqual(idsOf(await world.collect(group, 2)), idsOf(b.slice(1)), "what passes");
    ok(world.clock.monotonic() - start < 950, "the other key waited for the retry");
    const again = await world.one(group);
    deepEqual([again.id, again.attempt], [a[0]!.id, 2], "what comes when the delay is over");
    await world.nothing(group, 100);
    await group.ack([again]);
    deepEqual(idsOf(await world.collect(group, 1)), [a[1]!.id], "the follower");
  }, ["keyOrder"]);

  test("a released message comes again before its followers", async (world) => {
    const one = await world.subscribe("workers");
    const two = await world.subscribe("workers", { broker: await world.connect() });
    const messages = world.messages(2, { key: "k" });
    await world.broker.publish(world.topic, messages);
    await one.release([await world.one(one)]);
    deepEqual(idsOf(await world.collect(two, 2)), idsOf(messages), "order");
  }, ["keyOrder"]);

  test("a message whose lease ran out comes again before its followers", async (world) => {
    const dead = await world.subscribe("workers", { broker: await world.connect(), leaseMs: world.leaseMs });
    const alive = await world.subscribe("workers");
    const messages = world.messages(2, { key: "k" });
    await world.broker.publish(world.topic, messages);
    await world.one(dead);
    deepEqual(idsOf(await world.collect(alive, 2)), idsOf(messages), "order");
  }, ["keyOrder"]);

  test("a message that is given up lets its followers go on", async (world) => {
    const group = await world.subscribe("workers");
    const messages = world.messages(2, { key: "k" });
    await world.broker.publish(world.topic, messages);
    await group.deadLetter(await world.one(group), failure());
    deepEqual(idsOf(await world.collect(group, 1)), [messages[1]!.id], "the follower");
  }, ["keyOrder"]);

  test("groups hold back their own followers only", async (world) => {
    const stuck = await world.subscribe("stuck");
    const free = await world.subscribe("free");
    const messages = world.messages(3, { key: "k" });
    await world.broker.publish(world.topic, messages);
    await stuck.retry(await world.one(stuck), 60_000, failure());
    deepEqual(idsOf(await world.collect(free, 3)), idsOf(messages), "order in the other group");
    await world.nothing(stuck, 100);
  }, ["keyOrder"]);

  test("messages without a key do not wait for each other", async (world) => {
    const group = await world.subscribe("workers");
    await world.broker.publish(world.topic, world.messages(5));
    const out = await world.take(group, 5);
    deepEqual(await group.ack(out), [], "lost leases");
  });
}

/** Lets all consumers work until everything is handled. Every fifth message of a key fails once. */
async function handleAll(
  { clock, patienceMs }: BrokerWorld,
  consumers: readonly Subscription[],
  total: number,
): Promise<{ handled: ReadonlyMap<string, readonly number[]>; overlaps: readonly string[] }> {
  const handled = new Map<string, number[]>();
  const out = new Set<string>();
  const overlaps: string[] = [];
  const end = clock.monotonic() + patienceMs * 2;
  let left = total;
  async function work(consumer: Subscription): Promise<void> {
    while (left > 0 && clock.monotonic() < end) {
      const some = await consumer.pull(4, { waitMs: 100 });
      for (const { key = "" } of some) {
        if (out.has(key)) overlaps.push(key);
        out.add(key);
      }
      for (const delivery of some) {
        const { key = "" } = delivery;
        const { n } = dataOf<{ n: number }>(delivery);
        // The key is free for others from the moment the settlement reaches the broker, not from its reply on.
        out.delete(key);
        if (n % 5 === 2 && delivery.attempt === 1) {
          await consumer.retry(delivery, 20, failure());
        } else {
          handled.set(key, [...handled.get(key) ?? [], n]);
          left--;
          await consumer.ack([delivery]);
        }
      }
    }
  }
  await Promise.all(consumers.map(work));
  return { handled, overlaps };
}
