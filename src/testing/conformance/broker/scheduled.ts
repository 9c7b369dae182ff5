/**
 * Messages that wait for their time: called off, and given another time.
 *
 * @module
 */
import type { Scheduled } from "../../../ports/broker.ts";
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { BrokerSuite, BrokerWorld } from "./world.ts";

/** Registers the tests about {@linkcode Scheduled}. */
export function scheduledTests({ test }: BrokerSuite): void {
  test("calls a delayed message off, once, and no other", async (world) => {
    const group = await world.subscribe("workers");
    const [gone, stays] = world.messages(2);
    ok(gone && stays, "two messages");
    await world.broker.publish(world.topic, [gone, stays], { delayMs: 400 });
    const elsewhere = await scheduledOf(await world.connect());
    equal(await elsewhere.cancel(world.topic, gone.id), true, "cancel");
    equal(await elsewhere.cancel(world.topic, gone.id), false, "the second cancel");
    equal(await elsewhere.reschedule(world.topic, gone.id, 0), false, "reschedule of what was cancelled");
    equal(await elsewhere.cancel(world.unique("topic"), stays.id), false, "cancel on another topic");
    deepEqual(idsOf(await world.collect(group, 1)), [stays.id], "what comes");
    await world.nothing(group, 150);
  }, ["reschedules", "delay"]);

  test("gives a delayed message an earlier time, and another a later one", async (world) => {
    const group = await world.subscribe("workers");
    const [sooner, later] = world.messages(2);
    ok(sooner && later, "two messages");
    await world.broker.publish(world.topic, [sooner], { delayMs: 60_000 });
    await world.broker.publish(world.topic, [later], { delayMs: 300 });
    const start = world.clock.monotonic();
    const scheduled = scheduledOf(world.broker);
    equal(await scheduled.reschedule(world.topic, sooner.id, 200), true, "reschedule to an earlier time");
    equal(await scheduled.reschedule(world.topic, later.id, 900), true, "reschedule to a later time");
    deepEqual(idsOf(await world.collect(group, 1)), [sooner.id], "what comes first");
    ok(world.clock.monotonic() - start >= 190, "it came before its time");
    deepEqual(idsOf(await world.collect(group, 1)), [later.id], "what comes then");
    ok(world.clock.monotonic() - start >= 890, "it came at its old time");
    await world.nothing(group, 150);
  }, ["reschedules", "delay"]);

  test("what was handed out is no longer scheduled", async (world) => {
    const group = await world.subscribe("workers");
    const [due, waiting] = world.messages(2);
    ok(due && waiting, "two messages");
    await world.broker.publish(world.topic, [due], { delayMs: 50 });
    await world.broker.publish(world.topic, [waiting], { delayMs: 60_000 });
    const scheduled = scheduledOf(world.broker);
    const delivery = await world.one(group);
    deepEqual(delivery.id, due.id, "what comes");
    equal(await scheduled.cancel(world.topic, due.id), false, "cancel of what is out");
    await group.retry(delivery, 200, { error: "Timeout", message: "", at: 1 });
    equal(await scheduled.cancel(world.topic, due.id), false, "cancel of what waits for its retry");
    equal(await scheduled.reschedule(world.topic, waiting.id, 0), true, "reschedule to now");
    const both = await world.collect(group, 2);
    deepEqual([...idsOf(both)].sort(), [...idsOf([due, waiting])].sort(), "ids");
  }, ["reschedules", "delay"]);

  test("answers for ids and topics that do not exist, and refuses a delay that is none", async (world) => {
    const scheduled = scheduledOf(world.broker);
    for (const id of ["nope", "", "*", "a\u0000b", "'; drop table x; --", "x".repeat(2_000)]) {
      equal(await scheduled.cancel(world.topic, id), false, `cancel ${JSON.stringify(id.slice(0, 30))}`);
      equal(
        await scheduled.reschedule(world.topic, id, 10),
        false,
        `reschedule ${JSON.stringify(id.slice(0, 30))}`,
      );
    }
    await rejects(scheduled.reschedule(world.topic, "m", -1), "INVALID_ARGUMENT", "reschedule by -1 ms");
    await rejects(scheduled.reschedule(world.topic, "m", NaN), "INVALID_ARGUMENT", "reschedule by NaN ms");
  }, ["reschedules"]);
}

function scheduledOf(broker: BrokerWorld["broker"]): Scheduled {
  ok(broker.scheduled, "features.reschedules is true, and broker.scheduled is missing");
  return broker.scheduled;
}
