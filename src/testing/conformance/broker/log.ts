/**
 * The topic as a log: reading without a group.
 *
 * @module
 */
import type { EncodedMessage } from "../../../core/message.ts";
import type { TopicLog } from "../../../ports/broker.ts";
import { beside, deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { BrokerSuite, BrokerWorld } from "./world.ts";

/** Registers the tests about {@linkcode TopicLog}. */
export function logTests({ test }: BrokerSuite): void {
  test("the log reads a topic page by page, in order, from the start", async (world) => {
    const messages = world.messages(8, { key: "k" });
    await world.broker.publish(world.topic, messages);
    const entries = await readOn(world, "start", 8, 3);
    deepEqual(entries.map(withoutPosition), messages.map(withoutPosition), "what was read");
    for (const { position } of entries) {
      ok(/^[A-Za-z0-9_-]+$/.test(position), `the position ${position} has other characters`);
    }
    equal(new Set(entries.map(({ position }) => position)).size, 8, "different positions");
  }, ["log"]);

  test("the log resumes after any entry, also on another connection", async (world) => {
    const messages = world.messages(5, { key: "k" });
    await world.broker.publish(world.topic, messages);
    const entries = await readOn(world, "start", 5, 10);
    const other = (await world.connect()).log;
    ok(other, "the other connection keeps a log");
    for (const [index, { position }] of entries.entries()) {
      const following = await readOn(world, position, messages.length - index - 1, 10, other);
      deepEqual(idsOf(following), idsOf(messages.slice(index + 1)), `what follows entry ${index + 1}`);
    }
  }, ["log"]);

  test("the log waits at the end for what is published next", async (world) => {
    await world.broker.publish(world.topic, world.messages(2));
    const end = await readEnd(world);
    const start = world.clock.monotonic();
    const empty = await log(world).read(world.topic, end, { limit: 10, waitMs: 200 });
    deepEqual(empty.entries, [], "entries at the end");
    ok(world.clock.monotonic() - start >= 190, "the read did not wait");
    const reading = beside(log(world).read(world.topic, empty.next, { limit: 10, waitMs: world.patienceMs }));
    await world.sleep(100);
    const message = world.message();
    const published = world.clock.monotonic();
    await world.broker.publish(world.topic, [message]);
    deepEqual(idsOf((await reading).entries), [message.id], "what the waiting read gets");
    ok(world.clock.monotonic() - published < 2_000, "the waiting read did not notice the publish");
  }, ["log"]);

  test("the log begins with what is published from now on, where asked to", async (world) => {
    await world.broker.publish(world.topic, world.messages(3));
    const now = await log(world).read(world.topic, "now", { limit: 10, waitMs: 0 });
    deepEqual(now.entries, [], "entries of now");
    const message = world.message();
    await world.broker.publish(world.topic, [message]);
    deepEqual(idsOf(await readOn(world, now.next, 1, 10)), [message.id], "what came since");
  }, ["log"]);

  test(
    "the log of a topic that does not exist is empty, and its position is good when it does",
    async (world) => {
      for (const after of ["start", "now"]) {
        const topic = world.unique("topic");
        const page = await log(world).read(topic, after, { limit: 10, waitMs: 0 });
        deepEqual([page.entries.length, page.gap], [0, false], `entries and gap from ${after}`);
        const message = world.message();
        await world.broker.publish(topic, [message]);
        const next = await log(world).read(topic, page.next, { limit: 10, waitMs: world.patienceMs });
        deepEqual([...idsOf(next.entries), next.gap], [message.id, false], `what came since ${after}`);
      }
    },
    ["log"],
  );

  test(
    "reading the log takes nothing from the groups, and groups take nothing from the log",
    async (world) => {
      const group = await world.subscribe("readers");
      const messages = world.messages(5, { key: "k" });
      await world.broker.publish(world.topic, messages);
      await readOn(world, "start", 5, 10);
      await world.collect(group, 5);
      deepEqual(idsOf(await readOn(world, "start", 5, 10)), idsOf(messages), "the log after the group");
    },
    ["log"],
  );

  test("the log refuses positions that are not its own", async (world) => {
    await world.broker.publish(world.topic, [world.message()]);
    for (
      const position of [
        "",
        " ",
        "forged",
        "-1",
        "Start",
        "0; drop table x",
        "💥",
        "a\u0000",
        "x".repeat(1_000),
        "../1",
        "*",
      ]
    ) {
      await rejects(
        log(world).read(world.topic, position, { limit: 1, waitMs: 0 }),
        "INVALID_ARGUMENT",
        `read after ${JSON.stringify(position.slice(0, 30))}`,
      );
    }
    await rejects(
      log(world).read("no topic", "start", { limit: 1, waitMs: 0 }),
      "INVALID_ARGUMENT",
      "read of a bad topic",
    );
  }, ["log"]);

  test("the log stops waiting by its signal", async (world) => {
    const { next } = await log(world).read(world.topic, "now", { limit: 1, waitMs: 0 });
    const controller = new AbortController();
    const { signal } = controller;
    const waiting = log(world).read(world.topic, next, { limit: 1, waitMs: 60_000, signal });
    const reading = beside(rejects(waiting, "ABORTED", "read"));
    await world.sleep(100);
    controller.abort();
    await reading;
    const late = log(world).read(world.topic, next, { limit: 1, waitMs: 0, signal });
    await rejects(late, "ABORTED", "read with an aborted signal");
  }, ["log"]);

  test(
    "the log reports a gap where messages are no longer kept, and none where nothing is missing",
    async (world) => {
      const { trim } = world.under;
      ok(trim, "trim");
      await world.broker.publish(world.topic, world.messages(3));
      const [first, , third] = await readOn(world, "start", 3, 10);
      ok(first && third, "three entries");
      await trim(world.topic);
      const message = world.message();
      await world.broker.publish(world.topic, [message]);
      const gone = await log(world).read(world.topic, first.position, {
        limit: 10,
        waitMs: world.patienceMs,
      });
      equal(gone.gap, true, "gap after the first");
      const rest = gone.entries.length > 0 ? gone.entries : await readOn(world, gone.next, 1, 10);
      deepEqual(idsOf(rest), [message.id], "entries after the gap");
      deepEqual(
        idsOf(await readOn(world, third.position, 1, 10)),
        [message.id],
        "entries after the last, without a gap",
      );
    },
    ["log", "trim"],
  );
}

function log({ broker }: BrokerWorld): TopicLog {
  ok(broker.log, "the broker keeps no log");
  return broker.log;
}

type Entry = EncodedMessage & { readonly position: string };

async function readOn(
  world: BrokerWorld,
  after: string,
  count: number,
  limit: number,
  source: TopicLog = log(world),
): Promise<readonly Entry[]> {
  const all: Entry[] = [];
  const end = world.clock.monotonic() + world.patienceMs;
  for (let next = after; all.length < count && world.clock.monotonic() < end;) {
    const page = await source.read(world.topic, next, { limit, waitMs: 200 });
    ok(page.entries.length <= limit, `a page of at most ${limit} has ${page.entries.length} entries`);
    ok(!page.gap, "a gap was reported where nothing is missing");
    all.push(...page.entries);
    next = page.next;
  }
  equal(all.length, count, "entries in the log");
  return all;
}

async function readEnd(world: BrokerWorld): Promise<string> {
  const { next } = await log(world).read(world.topic, "now", { limit: 1, waitMs: 0 });
  return next;
}

function withoutPosition({ id, type, key, body }: EncodedMessage): EncodedMessage {
  return key === undefined ? { id, type, body } : { id, type, key, body };
}
