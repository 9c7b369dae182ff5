/**
 * Dead letters: kept whole, found again, sent back once and to their own group only.
 *
 * @module
 */
import type { DeadLetter } from "../../../ports/dead_letters.ts";
import { deepEqual, equal, eventually, ok } from "../../assert.ts";
import { awkwardBodies, idsOf } from "../messages.ts";
import { type BrokerSuite, type BrokerWorld, failure } from "./world.ts";

/** Registers the tests about {@linkcode DeadLetters}. */
export function deadLetterTests({ test }: BrokerSuite): void {
  test("keeps a dead letter with its original bytes, the failure, the attempts and the time of the first failure", async (world) => {
    const group = await world.subscribe("failing");
    for (const [what, body] of awkwardBodies()) {
      const message = { id: world.unique("m"), type: "conformance.happened", key: `key of ${what}`, body };
      await world.broker.publish(world.topic, [message]);
      await group.retry(await world.one(group), 0, failure("First", 1_000_000_000_001));
      await group.retry(await world.one(group), 0, failure("Second", 1_000_000_000_002));
      const last = failure("Third", 1_000_000_000_003);
      equal(await group.deadLetter(await world.one(group), last), true, "deadLetter");
      const letter = (await listAll(world)).find(({ id }) => id === message.id);
      ok(letter, `the dead letter with ${what} is not listed`);
      ok(letter.body === body, `the body with ${what} was changed`);
      const { id, type, key, topic, group: name, attempts, redrives, firstFailedAt } = letter;
      deepEqual(
        { id, type, key, topic, name, attempts, redrives, firstFailedAt, failure: letter.failure },
        {
          ...idTypeKey(message),
          topic: world.topic,
          name: "failing",
          attempts: 3,
          redrives: 0,
          firstFailedAt: 1_000_000_000_001,
          failure: last,
        },
        "facts of the dead letter",
      );
      deepEqual(await world.broker.deadLetters.get(letter.deadLetterId), letter, "the same by its id");
    }
    await world.nothing(group, 150);
  });

  test("takes a dead letter from its own group only", async (world) => {
    const failing = await world.subscribe("failing", { leaseMs: world.leaseMs });
    const other = await world.subscribe("other");
    const [bad, good] = world.messages(2);
    ok(bad && good, "two messages");
    await world.broker.publish(world.topic, [bad]);
    await failing.deadLetter(await world.one(failing), failure());
    await world.broker.publish(world.topic, [good]);
    deepEqual(idsOf(await world.collect(failing, 1)), [good.id], "what the failing group goes on with");
    deepEqual(
      [...idsOf(await world.collect(other, 2))].sort(),
      [...idsOf([bad, good])].sort(),
      "ids of the other group",
    );
    await world.nothing(failing, world.leaseMs + 100);
  });

  test("lists by topic, group, type, error and time, oldest first, page by page", async (world) => {
    const groups = [await world.subscribe("one"), await world.subscribe("two")];
    const kinds = [["a.happened", "Timeout", 1_000], ["b.happened", "Timeout", 2_000], [
      "a.happened",
      "Refused",
      3_000,
    ]] as const;
    for (const [type, error, at] of kinds) {
      await world.broker.publish(world.topic, [world.message({ at }, { type })]);
      for (const group of groups) await group.deadLetter(await world.one(group), failure(error, at));
      await world.sleep(5); // what was given up in the same millisecond by several groups has no order
    }
    const times = async (filter: object): Promise<readonly number[]> =>
      (await world.broker.deadLetters.list({ topic: world.topic, ...filter }, { limit: 100 })).map((letter) =>
        letter.failure.at
      );
    deepEqual(await times({}), [1_000, 1_000, 2_000, 2_000, 3_000, 3_000], "all");
    deepEqual(await times({ group: "two" }), [1_000, 2_000, 3_000], "of one group");
    deepEqual(await times({ group: "one", type: "a.happened" }), [1_000, 3_000], "of one type");
    deepEqual(await times({ group: "one", error: "Timeout" }), [1_000, 2_000], "of one error");
    deepEqual(await times({ group: "one", error: "Timeout", type: "a.happened" }), [1_000], "of both");
    deepEqual(await times({ group: "one", before: 2_000 }), [1_000], "before a time");
    deepEqual(await times({ group: "nobody" }), [], "of no group");
    deepEqual(await times({ topic: world.unique("other") }), [], "of no topic");
    const counts: readonly [filter: object, expected: number][] = [
      [{}, 6],
      [{ group: "two" }, 3],
      [{ group: "one", error: "Timeout" }, 2],
      [{ type: "a.happened", before: 3_000 }, 2],
      [{ group: "nobody" }, 0],
    ];
    for (const [filter, expected] of counts) {
      const found = await world.broker.deadLetters.count({ topic: world.topic, ...filter });
      equal(found, expected, `count of ${JSON.stringify(filter)}`);
    }

    const paged: DeadLetter[] = [];
    let page: readonly DeadLetter[] = await world.broker.deadLetters.list({ topic: world.topic }, {
      limit: 2,
    });
    while (page.length > 0 && paged.length < 20) {
      ok(page.length <= 2, `a page of at most 2 has ${page.length}`);
      paged.push(...page);
      const after = page[page.length - 1]!.deadLetterId;
      page = await world.broker.deadLetters.list({ topic: world.topic }, { limit: 2, after });
    }
    deepEqual(paged, await listAll(world), "the pages put together");
  });

  test("sends a dead letter back to the group that gave it up, as a first attempt, once", async (world) => {
    const failing = await world.subscribe("failing");
    const other = await world.subscribe("other");
    const message = world.message({ some: "data" }, { key: "k" });
    await world.broker.publish(world.topic, [message]);
    await world.collect(other, 1);
    await failing.retry(await world.one(failing), 0, failure());
    await failing.deadLetter(await world.one(failing), failure());
    const letter = await onlyLetter(world);
    equal(await world.broker.deadLetters.redrive(letter.deadLetterId), true, "redrive");
    equal(await world.broker.deadLetters.redrive(letter.deadLetterId), false, "the second redrive");
    equal(await world.broker.deadLetters.get(letter.deadLetterId), undefined, "the dead letter afterwards");
    deepEqual(await listAll(world), [], "dead letters afterwards");
    const again = await world.one(failing);
    const { id, key, body, attempt, topic, group } = again;
    deepEqual([id, key, body, attempt, topic, group], [
      message.id,
      "k",
      message.body,
      1,
      world.topic,
      "failing",
    ], "the delivery");
    deepEqual(await failing.ack([again]), [], "lost leases");
    await world.nothing(failing, 100);
    await world.nothing(other, 100);
  });

  test("counts redrives when the message dies again", async (world) => {
    const group = await world.subscribe("failing");
    await world.broker.publish(world.topic, [world.message()]);
    for (let redrives = 0; redrives < 3; redrives++) {
      await group.deadLetter(await world.one(group), failure());
      const letter = await onlyLetter(world);
      deepEqual([letter.redrives, letter.attempts], [redrives, 1], "redrives and attempts");
      equal(await world.broker.deadLetters.redrive(letter.deadLetterId), true, "redrive");
    }
    await world.collect(group, 1);
  });

  test("redrives once when five try at the same time, from several connections", async (world) => {
    const group = await world.subscribe("failing");
    await world.broker.publish(world.topic, [world.message()]);
    await group.deadLetter(await world.one(group), failure());
    const { deadLetterId } = await onlyLetter(world);
    const brokers = [
      world.broker,
      world.broker,
      await world.connect(),
      await world.connect(),
      await world.connect(),
    ];
    const outcomes = await Promise.all(brokers.map((broker) => broker.deadLetters.redrive(deadLetterId)));
    equal(outcomes.filter((outcome) => outcome).length, 1, "redrives that succeeded");
    await world.collect(group, 1);
    await world.nothing(group, 150);
  });

  test("redrives to a group that has no consumer at the moment", async (world) => {
    const before = await world.subscribe("failing");
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    await before.deadLetter(await world.one(before), failure());
    await before[Symbol.asyncDispose]();
    equal(await world.broker.deadLetters.redrive((await onlyLetter(world)).deadLetterId), true, "redrive");
    const after = await world.subscribe("failing", { from: "now" });
    deepEqual(idsOf(await world.collect(after, 1)), [message.id], "what the next consumer gets");
  });

  test("a redriven message is not taken for a duplicate, nor its redelivery", async (world) => {
    const group = await world.subscribe("failing", { leaseMs: world.leaseMs });
    await world.broker.publish(world.topic, [world.message()]);
    await group.deadLetter(await world.one(group), failure());
    await world.broker.deadLetters.redrive((await onlyLetter(world)).deadLetterId);
    await world.one(group);
    const again = await world.one(group);
    deepEqual([again.attempt, again.redelivered], [1, true], "the redelivery");
    await group.ack([again]);
    await world.nothing(group, world.leaseMs + 100);
  });

  test("removes a dead letter for good", async (world) => {
    const group = await world.subscribe("failing");
    await world.broker.publish(world.topic, world.messages(2));
    for (const delivery of await world.take(group, 2)) await group.deadLetter(delivery, failure());
    const [one, two] = await listAll(world);
    ok(one && two, "two dead letters");
    const { deadLetters } = await world.connect();
    equal(await deadLetters.remove(one.deadLetterId), true, "remove");
    equal(await deadLetters.remove(one.deadLetterId), false, "the second remove");
    equal(await deadLetters.redrive(one.deadLetterId), false, "redrive of what was removed");
    deepEqual(idsOf(await listAll(world)), [two.id], "what is left");
    await eventually(world.clock, world.patienceMs, "one dead", async () => (await group.lag()).dead === 1);
    await world.nothing(group, 100);
  });

  test("answers for ids that do not exist", async ({ broker: { deadLetters } }) => {
    for (
      const id of [
        "nope",
        "",
        "0",
        "-1",
        "'; drop table x; --",
        "a\u0000b",
        "9".repeat(40),
        "x".repeat(2_000),
      ]
    ) {
      const what = JSON.stringify(id.slice(0, 30));
      equal(await deadLetters.get(id), undefined, `get ${what}`);
      equal(await deadLetters.redrive(id), false, `redrive ${what}`);
      equal(await deadLetters.remove(id), false, `remove ${what}`);
    }
  });
}

function listAll({ broker, topic }: BrokerWorld): Promise<readonly DeadLetter[]> {
  return broker.deadLetters.list({ topic }, { limit: 100 });
}

async function onlyLetter(world: BrokerWorld): Promise<DeadLetter> {
  const [letter, ...more] = await listAll(world);
  ok(letter && more.length === 0, `expected one dead letter, got ${more.length + (letter ? 1 : 0)}`);
  return letter;
}

function idTypeKey(
  { id, type, key }: { id: string; type: string; key: string },
): { id: string; type: string; key: string } {
  return { id, type, key };
}
