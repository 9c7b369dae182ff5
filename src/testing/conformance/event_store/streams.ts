/**
 * Reading one stream.
 *
 * @module
 */
import { deepEqual, ok, rejects } from "../../assert.ts";
import { awkwardBodies } from "../messages.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode EventStore.readStream}. */
export function streamTests({ test }: StoreSuite): void {
  test("keeps bodies byte for byte, and ids, types and keys", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const appended = awkwardBodies().map(([what, body]) => ({
      id: world.unique("id: ü {} % ✓"),
      type: "Some.Type_v1",
      key: `key of ${what} ✓`,
      body,
    }));
    await events.append([{ stream, expected: 0, events: [...appended, world.event()] }]);
    const stored = await events.readStream(stream);
    for (const [index, { id, type, key, body }] of appended.entries()) {
      const event = stored[index];
      ok(event?.body === body, `the body with ${awkwardBodies()[index]![0]} was changed`);
      deepEqual([event.id, event.type, event.key], [id, type, key], "id, type and key");
    }
    ok(stored[appended.length]?.key === undefined, "an absent key stays absent");
  });

  test("reads forwards, backwards, from a version, and no more than the limit", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    await events.append([{ stream, expected: 0, events: world.events(10) }]);
    const versions = async (options: Parameters<typeof events.readStream>[1]): Promise<readonly number[]> =>
      (await events.readStream(stream, options)).map(({ version }) => version);
    deepEqual(await versions({}), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], "all");
    deepEqual(await versions({ from: 8 }), [8, 9, 10], "from 8");
    deepEqual(await versions({ from: 10 }), [10], "from the last");
    deepEqual(await versions({ from: 11 }), [], "from beyond the last");
    deepEqual(await versions({ limit: 3 }), [1, 2, 3], "the first three");
    deepEqual(await versions({ from: 4, limit: 2 }), [4, 5], "two from 4");
    deepEqual(await versions({ backwards: true }), [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], "backwards");
    deepEqual(await versions({ backwards: true, limit: 2 }), [10, 9], "the last two");
    deepEqual(await versions({ backwards: true, from: 4 }), [4, 3, 2, 1], "backwards from 4");
    deepEqual(await versions({ backwards: true, from: 4, limit: 2 }), [4, 3], "two backwards from 4");
    deepEqual(
      await versions({ backwards: true, from: 99, limit: 1 }),
      [10],
      "backwards from beyond the last",
    );
  });

  test("a stream that does not exist has no events", async ({ store: { events }, ...world }) => {
    deepEqual(await events.readStream(world.unique("s")), [], "events");
    deepEqual(await events.readStream(world.unique("s"), { backwards: true }), [], "events backwards");
  });

  test("streams whose names differ in case, dashes or a suffix are different", async ({ store: { events }, ...world }) => {
    const base = world.unique("s");
    const streams = [base, `${base}-1`, `${base}.1`, base.toUpperCase(), `${base}_1`];
    for (const stream of streams) {
      await events.append([{ stream, expected: "none", events: world.events(1) }]);
    }
    for (const stream of streams) {
      deepEqual((await events.readStream(stream)).map(({ version }) => version), [1], stream);
    }
  });

  test("refuses to read a bad stream name, and stops by its signal", async ({ store: { events }, ...world }) => {
    await rejects(events.readStream(""), "INVALID_ARGUMENT", "read of an empty name");
    await rejects(events.readStream(world.unique("s"), { signal: AbortSignal.abort() }), "ABORTED", "read");
  });
}
