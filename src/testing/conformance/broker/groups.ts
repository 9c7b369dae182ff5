/**
 * Groups: where they begin, and how they look from outside.
 *
 * @module
 */
import type { GroupStatus } from "../../../ports/broker.ts";
import { deepEqual, eventually, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import { type BrokerSuite, type BrokerWorld, failure } from "./world.ts";

/** Registers the tests about {@linkcode Broker.groups} and {@linkcode SubscribeOptions.from}. */
export function groupTests({ test, features }: BrokerSuite): void {
  test("lists the groups of a topic by name, with what is ready, in flight, delayed and dead", async (world) => {
    const second = await world.subscribe("b");
    const first = await world.subscribe("a");
    await world.broker.publish(world.topic, world.messages(5));
    const [one, two, three] = await world.take(first, 3);
    ok(one && two && three, "three deliveries");
    await first.retry(one, 60_000, failure());
    await first.deadLetter(two, failure());
    await world.collect(second, 5);
    const expected = [
      { topic: world.topic, group: "a", ready: 2, inFlight: 1, delayed: 1, dead: 1 },
      { topic: world.topic, group: "b", ready: 0, inFlight: 0, delayed: 0, dead: 0 },
    ];
    await settles(world, expected);
    const others = await world.broker.groups({ topic: world.unique("topic") });
    deepEqual(others, [], "groups of a topic that nobody has");
    const all = await world.broker.groups();
    deepEqual(counts(all.filter(({ topic }) => topic === world.topic)), expected, "among all groups");
    const names = all.map(({ topic, group }) => JSON.stringify([topic, group]));
    ok(new Set(names).size === names.length, "a group is listed twice");
  });

  test("says for how long the oldest unsettled message has waited, and nothing where none waits", async (world) => {
    const group = await world.subscribe("workers");
    await world.broker.publish(world.topic, world.messages(1));
    const start = world.clock.monotonic();
    const delivery = await world.one(group);
    await world.sleep(300);
    await world.broker.publish(world.topic, world.messages(1));
    const [status] = await world.broker.groups({ topic: world.topic });
    if (status?.oldestMs === undefined) return; // a broker that cannot tell leaves it away
    const longest = world.clock.monotonic() - start + 2_000;
    ok(
      status.oldestMs >= 250 && status.oldestMs <= longest,
      `the oldest has waited for ${status.oldestMs} ms`,
    );
    await group.ack([delivery]);
    await world.collect(group, 1);
    await eventually(world.clock, world.patienceMs, "no oldest message", async () => {
      const [now] = await world.broker.groups({ topic: world.topic });
      return now && now.oldestMs === undefined;
    });
  });

  test(
    "lists groups that another connection has joined, also when their consumers have left",
    async (world) => {
      const gone = await world.subscribe("gone");
      await gone[Symbol.asyncDispose]();
      await world.broker.publish(world.topic, world.messages(2));
      const other = await world.connect();
      const listed = await eventually(world.clock, world.patienceMs, "the group is listed", async () => {
        const [status] = await other.groups({ topic: world.topic });
        return status?.ready === 2 && status;
      });
      deepEqual(counts([listed]), [
        { topic: world.topic, group: "gone", ready: 2, inFlight: 0, delayed: 0, dead: 0 },
      ], "the group without consumers");
    },
    ["listsGroups", "secondConnection"],
  );

  test("begins a new group with what came in at or after a moment", async (world) => {
    await world.broker.publish(world.topic, world.messages(3));
    await world.sleep(60);
    const probe = await world.subscribe("probe");
    await world.collect(probe, 3);
    const since = world.clock.now();
    await world.sleep(60);
    const after = world.messages(4);
    await world.broker.publish(world.topic, after);
    const late = await world.subscribe("late", { from: { since } });
    deepEqual([...idsOf(await world.collect(late, 4))].sort(), [...idsOf(after)].sort(), "ids");
    await world.nothing(late, 100);
    const whole = await world.subscribe("whole", { from: { since: 0 } });
    await world.collect(whole, 7);
    const future = await world.subscribe("future", { from: { since: since + 3_600_000 } });
    await world.nothing(future, 100);
  }, ["replaySince"]);

  test("refuses a beginning that is none", async (world) => {
    for (const from of ["end", "", { since: -1 }, { since: NaN }, { since: "yesterday" }, 7]) {
      const joining = world.broker.subscribe(world.topic, "group", { from: from as never });
      await rejects(joining, "INVALID_ARGUMENT", `from ${JSON.stringify(from)}`);
    }
  });

  if (features.replaySince) return;
  test("refuses to begin at a moment, as it cannot", async (world) => {
    const joining = world.broker.subscribe(world.topic, "group", { from: { since: 1 } });
    await rejects(joining, "UNSUPPORTED", "from a moment");
  });
}

async function settles(world: BrokerWorld, expected: readonly GroupStatus[]): Promise<void> {
  const end = world.clock.monotonic() + world.patienceMs;
  const read = async (): Promise<readonly GroupStatus[]> =>
    counts(await world.broker.groups({ topic: world.topic }));
  while (JSON.stringify(await read()) !== JSON.stringify(expected) && world.clock.monotonic() < end) {
    await world.sleep(50);
  }
  deepEqual(await read(), expected, "groups");
}

function counts(groups: readonly GroupStatus[]): readonly GroupStatus[] {
  return groups.map(({ topic, group, ready, inFlight, delayed, dead }) => (
    { topic, group, ready, inFlight, delayed, dead }
  ));
}
