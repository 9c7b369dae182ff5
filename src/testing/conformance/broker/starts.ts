/**
 * Started attempts: what finds a message that kills its process, and leaves its neighbours alone.
 *
 * @module
 */
import { deepEqual, equal, eventually, ok } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import { type BrokerSuite, failure } from "./world.ts";

/** Registers the tests about {@linkcode Subscription.begin} and {@linkcode Delivery.redelivered}. */
export function startTests({ test, features }: BrokerSuite): void {
  test("marks as redelivered what was left to its lease, and not what was retried or released", async (world) => {
    const first = await world.subscribe("workers", { leaseMs: world.leaseMs });
    const next = await world.subscribe("workers");
    await world.broker.publish(world.topic, world.messages(3));
    const [retried, released, left] = await world.take(first, 3);
    ok(retried && released && left, "three deliveries");
    await first.retry(retried, 0, failure());
    await first.release([released]);
    const marks = new Map((await world.take(next, 3)).map(({ id, redelivered }) => [id, redelivered]));
    deepEqual([retried, released, left].map(({ id }) => marks.get(id)), [false, false, true], "redelivered");
  });

  test(
    "counts the handlers that began, through lost leases, and not the neighbours that were only handed out",
    async (world) => {
      const alive = await world.subscribe("workers", { leaseMs: 30_000 });
      const messages = world.messages(3);
      const [killer] = messages;
      await world.broker.publish(world.topic, messages);
      for (let crash = 1; crash <= 3; crash++) {
        const dying = await world.subscribe("workers", {
          broker: await world.connect(),
          leaseMs: world.leaseMs,
        });
        for (const delivery of await world.take(dying, 3)) {
          if (delivery.id === killer!.id) {
            equal(await dying.begin(delivery), crash, `starts before crash ${crash}`);
          }
        }
        if (crash < 3) continue;
        const starts = new Map<string, number | undefined>();
        for (const delivery of await world.take(alive, 3)) {
          starts.set(delivery.id, await alive.begin(delivery));
        }
        deepEqual(
          idsOf(messages).map((id) => starts.get(id)),
          [4, 1, 1],
          "starts of the killer and its neighbours",
        );
      }
    },
    ["countsStarts"],
  );

  test("counts starts anew after a retry, a release and a redrive", async (world) => {
    const dying = await world.subscribe("workers", { leaseMs: world.leaseMs });
    const group = await world.subscribe("workers");
    await world.broker.publish(world.topic, world.messages(3));
    for (const delivery of await world.take(dying, 3)) {
      equal(await dying.begin(delivery), 1, "the first start");
    }
    const [retried, released, dead] = await world.take(group, 3);
    ok(retried && released && dead, "three deliveries");
    for (const delivery of [retried, released, dead]) {
      equal(await group.begin(delivery), 2, "the second start");
    }
    await group.retry(retried, 0, failure());
    await group.release([released]);
    await group.deadLetter(dead, failure());
    const letter = await eventually(world.clock, world.patienceMs, "a dead letter", async () => {
      const [first] = await world.broker.deadLetters.list({ topic: world.topic }, { limit: 1 });
      return first;
    });
    equal(await world.broker.deadLetters.redrive(letter.deadLetterId), true, "redrive");
    for (const delivery of await world.take(group, 3)) {
      equal(await group.begin(delivery), 1, "the start after it");
    }
  }, ["countsStarts"]);

  test("a start by the former owner of a lost lease is refused and counts for nobody", async (world) => {
    const paused = await world.subscribe("workers", {
      broker: await world.connect(),
      leaseMs: world.leaseMs,
    });
    const owner = await world.subscribe("workers", { leaseMs: 30_000 });
    await world.broker.publish(world.topic, [world.message()]);
    const lost = await world.one(paused);
    const owned = await world.one(owner);
    equal(await paused.begin(lost), undefined, "the start of the former owner");
    equal(await owner.begin(owned), 1, "the start of the owner");
    deepEqual(await owner.ack([owned]), [], "what the owner's ack reports as lost");
  }, ["countsStarts", "fencedAck"]);

  if (features.countsStarts) return;
  test("says 1 for every start, as it does not count", async (world) => {
    const group = await world.subscribe("workers");
    await world.broker.publish(world.topic, [world.message()]);
    const delivery = await world.one(group);
    deepEqual([await group.begin(delivery), await group.begin(delivery)], [1, 1], "starts");
    deepEqual(await group.ack([delivery]), [], "lost leases");
  });
}
