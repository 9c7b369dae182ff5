/**
 * What can become of a stream: notes, truncation, deletion, archive.
 *
 * @module
 */
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";

/** Registers the tests about {@linkcode EventStore.describeStream} and {@linkcode EventStore.changeStream}. */
export function lifecycleTests({ test }: StoreSuite): void {
  test("describes a stream, and nothing where there is none, also after a refused or rolled back append", async ({ store, ...world }) => {
    const { events } = store;
    const stream = world.unique("s");
    equal(await events.describeStream(stream), undefined, "before");
    const append = { stream, expected: 5, events: world.events(1) };
    await rejects(events.append([append]), "CONCURRENCY_CONFLICT", "append");
    const failed = store.transaction(async (tx) => {
      await tx.events.append([{ ...append, expected: 0 }]);
      throw new Error("rolled back on purpose");
    });
    await failed.catch(() => {});
    equal(await events.describeStream(stream), undefined, "after a refusal and a rollback");
    await rejects(events.changeStream(stream, { state: "deleted" }), "NOT_FOUND", "a change");
    await events.append([{ ...append, expected: 0 }]);
    deepEqual(
      await events.describeStream(stream),
      { stream, version: 1, firstVersion: 1, state: "open" },
      "afterwards",
    );
  });

  test("keeps an application's notes about a stream until they are removed", async (world) => {
    const { events } = world.store;
    const { stream } = await appended(world, 2);
    const info = { stream, version: 2, firstVersion: 1, state: "open" } as const;
    const metadata = '{"owner":"billing","note":"\\u0000 ü 😀"}';
    deepEqual(await events.changeStream(stream, { metadata }), { ...info, metadata }, "result");
    deepEqual(await events.describeStream(stream), { ...info, metadata }, "afterwards");
    deepEqual(await events.changeStream(stream, {}), { ...info, metadata }, "no change");
    deepEqual(await events.changeStream(stream, { metadata: null }), info, "removed");
  });

  test("truncates a stream: earlier events are gone, versions and positions stay", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const { stream, sent } = await appended(world, 6);
    const before = await events.readStream(stream);
    const info = await events.changeStream(stream, { truncateBefore: 4 });
    deepEqual(info, { stream, version: 6, firstVersion: 4, state: "open" }, "description");
    deepEqual(await events.readStream(stream), before.slice(3), "the stream");
    deepEqual(
      await events.readStream(stream, { from: 2, limit: 2 }),
      before.slice(3, 5),
      "from a removed version",
    );
    deepEqual(await events.readStream(stream, { backwards: true }), before.slice(3).reverse(), "backwards");
    deepEqual(
      await events.readStream(stream, { backwards: true, from: 3 }),
      [],
      "backwards from a removed version",
    );
    const [result] = await events.append([{ stream, expected: 6, events: world.events(1) }]);
    equal(result!.version, 7, "version of the next append");
    await world.caughtUp(result!.position);
    const page = await events.readAll(start, { limit: 100 });
    deepEqual(idsOf(page.events).slice(0, 3), idsOf(sent.slice(3)), "all events");
    equal((await events.changeStream(stream, { truncateBefore: 2 })).firstVersion, 4, "it never goes back");
    await rejects(
      events.changeStream(stream, { truncateBefore: 8 }),
      "INVALID_ARGUMENT",
      "beyond the last event",
    );
    deepEqual(idsOf(await events.readStream(stream)).slice(0, 3), idsOf(sent.slice(3)), "nothing else went");
    equal(
      (await events.changeStream(stream, { truncateBefore: 7 })).firstVersion,
      7,
      "all but the last event",
    );
  });

  test("deletes a stream: it reads as empty, the whole store still has it, and it opens again behind its last version", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const { stream, sent } = await appended(world, 3);
    const deleted = await events.changeStream(stream, { state: "deleted" }, { expected: 3 });
    deepEqual(deleted, { stream, version: 3, firstVersion: 4, state: "deleted" }, "description");
    deepEqual(await events.changeStream(stream, { state: "deleted" }), deleted, "deleted twice");
    deepEqual(await events.readStream(stream), [], "the stream");
    deepEqual(await events.readStream(stream, { backwards: true }), [], "the stream backwards");
    await rejects(events.changeStream(stream, { truncateBefore: 2 }), "REJECTED", "truncation");
    await rejects(events.changeStream(stream, { state: "archived" }), "REJECTED", "archiving");
    for (const expected of [3, "exists"] as const) {
      const append = events.append([{ stream, expected, events: world.events(1) }]);
      const { details } = await rejects(append, "CONCURRENCY_CONFLICT", `expected ${expected}`);
      equal(details.current, 0, "current version");
    }
    const [again] = await events.append([{ stream, expected: "none", events: world.events(2) }]);
    equal(again!.version, 5, "version");
    deepEqual((await events.readStream(stream)).map(({ version }) => version), [4, 5], "versions");
    deepEqual(
      await events.describeStream(stream),
      { stream, version: 5, firstVersion: 4, state: "open" },
      "description of the new one",
    );
    const late = events.append([{ stream, expected: 3, events: world.events(1) }]);
    equal(
      (await rejects(late, "CONCURRENCY_CONFLICT", "someone who did not notice")).details.current,
      5,
      "current",
    );
    await world.caughtUp(again!.position);
    const all = idsOf((await events.readAll(start, { limit: 100 })).events);
    deepEqual(all.slice(0, 3), idsOf(sent), "the whole store");
    equal(all.length, 5, "events in the whole store");
  });

  test("opens a deleted stream as it was, and one append of many wins the re-creation", async (world) => {
    const { events } = world.store;
    const { stream, sent } = await appended(world, 4);
    await events.changeStream(stream, { truncateBefore: 2 });
    await events.changeStream(stream, { state: "deleted" });
    const info = await events.changeStream(stream, { state: "open" });
    deepEqual(info, { stream, version: 4, firstVersion: 2, state: "open" }, "description");
    deepEqual(idsOf(await events.readStream(stream)), idsOf(sent.slice(1)), "the stream");
    await events.changeStream(stream, { state: "deleted" });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, () => events.append([{ stream, expected: 0, events: world.events(1) }])),
    );
    equal(outcomes.filter(({ status }) => status === "fulfilled").length, 1, "winners");
    deepEqual((await events.readStream(stream)).map(({ version }) => version), [5], "versions");
  });

  test("archives a stream: no read meets it unless it asks, no append gets in, and it comes back whole", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const tag = world.unique("t:");
    const { stream, sent } = await appended(world, 3, [tag]);
    const before = await events.readStream(stream);
    await world.caughtUp(before.at(-1)!.position);
    const archived = await events.changeStream(stream, { state: "archived" });
    deepEqual(archived, { stream, version: 3, firstVersion: 1, state: "archived" }, "description");
    deepEqual(await events.readStream(stream), [], "the stream");
    deepEqual(await events.readStream(stream, { archived: true }), before, "the archive");
    deepEqual(
      await events.readStream(stream, { archived: true, backwards: true, limit: 2 }),
      before.slice(1).reverse(),
      "the archive backwards",
    );
    deepEqual((await events.readAll(start, { limit: 10 })).events, [], "the whole store");
    deepEqual((await events.readMatching([{ tags: [tag] }])).events, [], "by tag");
    for (const expected of ["any", 3, "none"] as const) {
      const append = events.append([{ stream, expected, events: world.events(1) }]);
      const error = await rejects(append, "REJECTED", `expected ${expected}`);
      deepEqual(error.details, { stream, state: "archived" }, "details");
      ok(!error.retryable, "not retryable");
    }
    await rejects(events.changeStream(stream, { state: "deleted" }), "REJECTED", "deletion");
    await events.changeStream(stream, { state: "open" });
    deepEqual(await events.readStream(stream), before, "the stream that came back");
    deepEqual(await events.readStream(stream, { archived: true }), [], "the archive");
    deepEqual(idsOf((await events.readAll(start, { limit: 10 })).events), idsOf(sent), "the whole store");
    equal((await events.readMatching([{ tags: [tag] }])).events.length, 3, "by tag");
    const [next] = await events.append([{ stream, expected: 3, events: world.events(1) }]);
    equal(next!.version, 4, "version of the next append");
  });

  test("a change is refused at another version, and undone with its transaction", async (world) => {
    const { events } = world.store;
    const { stream } = await appended(world, 5);
    const before = await events.readStream(stream);
    const conflict = events.changeStream(stream, { state: "deleted" }, { expected: 4 });
    deepEqual(
      (await rejects(conflict, "CONCURRENCY_CONFLICT", "a change")).details,
      { stream, expected: 4, current: 5 },
      "details",
    );
    for (const change of [{ truncateBefore: 3 }, { state: "deleted" }, { state: "archived" }] as const) {
      const failed = world.store.transaction(async (tx) => {
        await tx.events.changeStream(stream, { ...change, metadata: "m" });
        throw new Error("rolled back on purpose");
      });
      await failed.catch(() => {});
      deepEqual(await events.readStream(stream), before, `the stream after ${JSON.stringify(change)}`);
      deepEqual(
        await events.describeStream(stream),
        { stream, version: 5, firstVersion: 1, state: "open" },
        "description",
      );
    }
    for (
      const change of [
        { truncateBefore: 0 },
        { truncateBefore: 1.5 },
        { state: "closed" as "open" },
        { metadata: "\0" },
        { metadata: "x".repeat(65_537) },
      ]
    ) {
      const what = JSON.stringify(change).slice(0, 30);
      await rejects(events.changeStream(stream, change), "INVALID_ARGUMENT", what);
    }
  });
}

/** A stream with so many events. */
async function appended(
  world: StoreWorld,
  count: number,
  tags: readonly string[] = [],
): Promise<{ stream: string; sent: ReturnType<StoreWorld["events"]> }> {
  const stream = world.unique("s");
  const sent = world.events(count).map((event) => ({ ...event, tags }));
  await world.store.events.append([{ stream, expected: 0, events: sent }]);
  return { stream, sent };
}
