/**
 * Appending inside a transaction, and the way into the outbox.
 *
 * @module
 */
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about appends, transactions and the outbox. */
export function transactionTests({ test }: StoreSuite): void {
  test("an append in a transaction that fails leaves nothing, and the versions are free again", async ({ store, ...world }) => {
    const stream = world.unique("s");
    const failure = new Error("rolled back on purpose");
    const { topic } = world;
    const failed = store.transaction(async ({ events }) => {
      await events.append([{
        stream,
        expected: 0,
        events: world.events(3).map((event) => ({ ...event, topic })),
      }]);
      throw failure;
    });
    equal(await failed.catch((error) => error), failure, "the error");
    deepEqual(await store.events.readStream(stream), [], "the stream");
    const [result] = await store.events.append([{ stream, expected: "none", events: world.events(1) }]);
    equal(result?.version, 1, "version of the next append");
    deepEqual(await world.pending(0), [], "the outbox");
  });

  test("a transaction sees its own appends", async ({ store, ...world }) => {
    const stream = world.unique("s");
    await store.transaction(async ({ events }) => {
      await events.append([{ stream, expected: 0, events: world.events(2) }]);
      equal((await events.readStream(stream)).length, 2, "events inside");
      const [again] = await events.append([{ stream, expected: 2, events: world.events(1) }]);
      equal(again?.version, 3, "version of a second append");
    });
    equal((await store.events.readStream(stream)).length, 3, "events outside");
  });

  test("an event with a topic is put in the outbox in the same transaction, once", async ({ store, ...world }) => {
    const { topic } = world;
    const other = `${topic}-other`;
    const [a, b] = [world.unique("a"), world.unique("b")];
    const sent = world.events(3, { key: "k" });
    const appends = [
      {
        stream: a,
        expected: 0,
        events: [{ ...sent[0]!, topic }, world.event(), { ...sent[1]!, topic: other }],
      },
      { stream: b, expected: 0, events: [{ ...sent[2]!, topic }] },
    ];
    await store.events.append(appends);
    await store.events.append(appends);
    const entries = await world.pending(3);
    deepEqual(idsOf(entries), idsOf(sent), "ids");
    deepEqual(entries.map((entry) => entry.topic), [topic, other, topic], "topics");
    for (const [index, { body, key, type }] of entries.entries()) {
      deepEqual([body, key, type], [sent[index]!.body, "k", sent[index]!.type], "body, key and type");
    }
    await rejects(
      store.events.append([{ stream: a, expected: 0, events: [{ ...world.event(), topic }] }]),
      "CONCURRENCY_CONFLICT",
      "an append in conflict",
    );
    equal((await world.pending(3)).length, 3, "messages in the outbox after a conflict");
  });

  test("of two transactions that append to one stream, the second waits and then finds a conflict", async ({ store, ...world }) => {
    const other = await world.connect();
    const stream = world.unique("s");
    const order: string[] = [];
    let appended: () => void = () => {};
    const firstAppended = new Promise<void>((resolve) => appended = resolve);
    const first = store.transaction(async ({ events }) => {
      await events.append([{ stream, expected: 0, events: world.events(1) }]);
      appended();
      await world.sleep(150);
      order.push("first done");
    });
    await Promise.race([firstAppended, first]);
    const second = rejects(
      other.transaction(async ({ events }) => {
        await events.append([{ stream, expected: 0, events: world.events(1) }]);
      }),
      "CONCURRENCY_CONFLICT",
      "the second append",
    ).then(() => order.push("second refused"));
    await Promise.all([first, second]);
    deepEqual(order, ["first done", "second refused"], "order");
    equal((await store.events.readStream(stream)).length, 1, "events in the stream");
  });

  test("what was committed is there after a restart, and appends go on", async ({ store, ...world }) => {
    const { restart } = world.under;
    ok(restart, "restart");
    const stream = world.unique("s");
    const { topic } = world;
    const before = world.events(3).map((event) => ({ ...event, topic }));
    const results = await store.events.append([{ stream, expected: 0, events: before }]);
    const reopened = await restart();
    await reopened.start();
    deepEqual(idsOf(await reopened.events.readStream(stream)), idsOf(before), "ids");
    deepEqual(
      await reopened.events.append([{ stream, expected: 0, events: before }]),
      results,
      "the repetition",
    );
    const [next] = await reopened.events.append([{ stream, expected: 3, events: world.events(1) }]);
    ok(next!.position > results[0]!.position, "positions go on");
    deepEqual(idsOf(await world.pending(3, reopened)), idsOf(before), "the outbox");
  }, ["restart"]);
}
