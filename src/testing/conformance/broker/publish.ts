/**
 * Publishing: what is accepted, refused, delayed and recognised.
 *
 * @module
 */
import { deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import { awkwardBodies, idsOf } from "../messages.ts";
import { type BrokerSuite, FEATURES } from "./world.ts";

/** Registers the tests about {@linkcode Publisher.publish}. */
export function publishTests({ test, features }: BrokerSuite): void {
  test("every feature it lacks comes with a reason", async ({ broker }) => {
    for (const name of FEATURES) {
      ok(broker.features[name] || broker.features.reasons[name], `features.reasons.${name} is missing`);
    }
    await broker.ping();
  });

  test("carries bodies byte for byte, whatever JSON text they hold", async (world) => {
    const group = await world.subscribe("readers");
    for (const [what, body] of awkwardBodies()) {
      await world.broker.publish(world.topic, [{
        id: world.unique("m"),
        type: "conformance.happened",
        body,
      }]);
      const [delivery] = await world.collect(group, 1);
      ok(delivery?.body === body, `the body with ${what} was changed on the way`);
    }
  });

  test("carries ids, types and keys unchanged, and leaves an absent key absent", async (world) => {
    const group = await world.subscribe("readers");
    const messages = [
      {
        ...world.message(),
        id: "id: with {braces} * ? % and ü ✓",
        type: "Some.Type_v1",
        key: "kunde/ä: {1} ✓ *",
      },
      { ...world.message(), id: "0", key: "0" },
      { ...world.message(), id: "x".repeat(512), key: "k".repeat(512) },
      world.message(),
    ];
    await world.broker.publish(world.topic, messages);
    const byId = new Map(
      (await world.collect(group, messages.length)).map((delivery) => [delivery.id, delivery]),
    );
    for (const { id, type, key, body } of messages) {
      const delivery = byId.get(id);
      ok(delivery, `no delivery has the id ${id}`);
      deepEqual(
        [delivery.type, delivery.key, delivery.body],
        [type, key, body],
        `type, key and body of ${id}`,
      );
    }
  });

  test("resolves for an empty list, and nothing is delivered", async (world) => {
    const group = await world.subscribe("readers");
    await world.broker.publish(world.topic, []);
    await world.nothing(group, 100);
  });

  test("publishes nothing when the signal is aborted before", async (world) => {
    const group = await world.subscribe("readers");
    const publishing = world.broker.publish(world.topic, [world.message()], { signal: AbortSignal.abort() });
    await rejects(publishing, "ABORTED", "publish with an aborted signal");
    await world.nothing(group, 100);
  });

  test("refuses topic and group names that are not names", async (world) => {
    const bad = ["", " ", "a b", "a/b", "ä", "-a", ".a", "a\u0000", "a\n", "{a}", "a*", "x".repeat(201)];
    for (const name of bad) {
      const what = JSON.stringify(name.slice(0, 20));
      await rejects(
        world.broker.publish(name, [world.message()]),
        "INVALID_ARGUMENT",
        `publish to topic ${what}`,
      );
      await rejects(world.broker.subscribe(name, "group"), "INVALID_ARGUMENT", `subscribe to topic ${what}`);
      await rejects(
        world.broker.subscribe(world.topic, name),
        "INVALID_ARGUMENT",
        `subscribe as group ${what}`,
      );
    }
  });

  test("keeps topics and groups apart whose names differ in case, dots, dashes or a suffix", async (world) => {
    const base = world.unique("t");
    const pairs = [[base, "g"], [`${base}.dead`, "g"], [`${base}-g`, "g"], [base, "G"], [base, "g.g"], [
      `${base}.g`,
      "g",
    ]] as const;
    const groups = [];
    for (const [topic, group] of pairs) groups.push(await world.subscribe(group, { topic }));
    const topics = [...new Set(pairs.map(([topic]) => topic))];
    for (const topic of topics) await world.broker.publish(topic, [world.message({ topic })]);
    for (const group of groups) {
      const [delivery] = await world.collect(group, 1);
      equal(delivery?.topic, group.topic, "topic of the delivery");
      equal(delivery?.group, group.group, "group of the delivery");
    }
    for (const group of groups) await world.nothing(group, 50);
  });

  test("keeps every message of 50 concurrent publishers, once for the group", async (world) => {
    const consumers = [];
    for (let n = 0; n < 5; n++) {
      consumers.push(await world.subscribe("workers", { broker: await world.connect() }));
    }
    const messages = world.messages(1_000);
    const publishers = Array.from({ length: 50 }, (_, n) => messages.slice(n * 20, n * 20 + 20));
    const received: string[] = [];
    const consuming = consumers.map(async (consumer) => {
      const end = world.clock.monotonic() + world.patienceMs;
      while (received.length < messages.length && world.clock.monotonic() < end) {
        const some = await consumer.pull(50, { waitMs: 200 });
        received.push(...idsOf(some));
        await consumer.ack(some);
      }
    });
    const publish = async (part: typeof messages) => {
      for (const message of part.slice(0, 10)) await world.broker.publish(world.topic, [message]);
      await world.broker.publish(world.topic, part.slice(10));
    };
    await Promise.all([...publishers.map(publish), ...consuming]);
    deepEqual([...received].sort(), [...idsOf(messages)].sort(), "ids received by all consumers together");
  });

  test("keeps the order of one key within a call and from call to call", async (world) => {
    const group = await world.subscribe("readers");
    const messages = world.messages(100, { key: "k" });
    for (let n = 0; n < 100; n += 10) await world.broker.publish(world.topic, messages.slice(n, n + 10));
    deepEqual(idsOf(await world.collect(group, 100)), idsOf(messages), "order of the ids");
  }, ["keyOrder"]);

  test(
    "adds nothing when an id is published again: in one call, later, and at the same time",
    async (world) => {
      const group = await world.subscribe("readers");
      const [first, second, third] = world.messages(3);
      ok(first && second && third, "three messages");
      await world.broker.publish(world.topic, [first, first]);
      await world.broker.publish(world.topic, [first, second]);
      await Promise.all(Array.from({ length: 10 }, () => world.broker.publish(world.topic, [third])));
      deepEqual(
        [...idsOf(await world.collect(group, 3))].sort(),
        [...idsOf([first, second, third])].sort(),
        "ids",
      );
      await world.nothing(group, 150);
      await world.broker.publish(world.topic, [first]);
      await world.nothing(group, 150);
    },
    ["deduplicates"],
  );

  test("does not take the same id in another topic for a duplicate", async (world) => {
    const other = world.unique("topic");
    const groups = [await world.subscribe("readers"), await world.subscribe("readers", { topic: other })];
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    await world.broker.publish(other, [message]);
    for (const group of groups) deepEqual(idsOf(await world.collect(group, 1)), [message.id], "ids");
  });

  test(
    "hands a delayed message out when its time has come, not before, and others in the meantime",
    async (world) => {
      const groups = [await world.subscribe("one"), await world.subscribe("two")];
      const [late, soon] = world.messages(2);
      ok(late && soon, "two messages");
      const start = world.clock.monotonic();
      await world.broker.publish(world.topic, [late], { delayMs: world.delayMs });
      await world.broker.publish(world.topic, [soon]);
      for (const group of groups) {
        deepEqual(idsOf(await world.collect(group, 1)), [soon.id], "what comes at once");
        await eventually(
          world.clock,
          world.patienceMs,
          "delayed 1",
          async () => (await group.lag()).delayed === 1,
        );
      }
      for (const group of groups) {
        const delivery = await world.one(group);
        const waited = world.clock.monotonic() - start;
        deepEqual([delivery.id, delivery.attempt], [late.id, 1], "the delayed message");
        ok(waited >= world.delayMs - 10, `a message delayed by ${world.delayMs} ms came after ${waited} ms`);
        await group.ack([delivery]);
      }
      for (const group of groups) {
        await world.nothing(group, 100);
      }
    },
    ["delay"],
  );

  test("hands out messages in the order of their delays, not of their publishing", async (world) => {
    const group = await world.subscribe("readers");
    const [first, second, third] = world.messages(3);
    ok(first && second && third, "three messages");
    await world.broker.publish(world.topic, [third], { delayMs: world.delayMs * 2.5 });
    await world.broker.publish(world.topic, [first], { delayMs: world.delayMs / 2 });
    await world.broker.publish(world.topic, [second], { delayMs: world.delayMs * 1.5 });
    deepEqual(idsOf(await world.take(group, 3)), idsOf([first, second, third]), "order");
  }, ["delay"]);

  if (!features.delay) {
    test("refuses a delay that it cannot keep", async (world) => {
      const publishing = world.broker.publish(world.topic, [world.message()], { delayMs: 1_000 });
      await rejects(publishing, "UNSUPPORTED", "publish with a delay");
    });
  }
}
