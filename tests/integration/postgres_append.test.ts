import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { PostgresStore } from "../../src/postgres/mod.ts";
import { events, openers, uniqueSchema } from "./postgres_fixture.ts";

for (const { name, skip, open, drop, end } of [openers.postgres, openers.pglite]) {
  describe(`appending on ${name}`, { skip }, () => {
    const schema = uniqueSchema("append");
    after(async () => {
      await drop(schema);
      await end();
    });

    test("a conflict leaves the transaction usable: what it wrote before and writes after commits", async () => {
      await using store = await open(schema);
      await store.events.append([{
        stream: "taken",
        expected: 0,
        events: events(1),
      }]);
      await store.transaction(async (tx) => {
        await tx.events.append([{
          stream: "before",
          expected: 0,
          events: events(1),
        }]);
        await assert.rejects(
          tx.events.append([{
            stream: "taken",
            expected: 0,
            events: events(1),
          }]),
          (error) => isMillstreamError(error, "CONCURRENCY_CONFLICT"),
        );
        await tx.events.append([{
          stream: "after",
          expected: 0,
          events: events(1),
        }]);
      });
      const lengths = ["before", "taken", "after"].map(async (stream) =>
        (await store.events.readStream(stream)).length
      );
      assert.deepEqual(await Promise.all(lengths), [1, 1, 1]);
    });

    test("of several streams, one that conflicts leaves no trace of the others, not even an empty stream", async () => {
      await using store = await open(schema);
      await store.events.append([{
        stream: "x",
        expected: 0,
        events: events(2),
      }]);
      const append = store.events.append([
        {
          stream: "new-1",
          expected: "none",
          events: events(1).map((event) => ({ ...event, topic: "t" })),
        },
        { stream: "x", expected: 1, events: events(1) },
        { stream: "new-2", expected: "any", events: events(1) },
      ]);
      await assert.rejects(
        append,
        (error) => isMillstreamError(error, "CONCURRENCY_CONFLICT"),
      );
      assert.deepEqual(await streams(store, schema, "new-%"), []);
      assert.deepEqual(await store.outbox.pending(10), []);
    });

    test("some of the events in one stream and others new: refused, whatever is expected", async () => {
      await using store = await open(schema);
      const [one, two] = events(2);
      assert.ok(one && two);
      await store.events.append([{
        stream: "partial",
        expected: 0,
        events: [one],
      }]);
      for (const expected of ["any", "exists", 1] as const) {
        await assert.rejects(
          store.events.append([{
            stream: "partial",
            expected,
            events: [one, two],
          }]),
          (error) => isMillstreamError(error, "CONCURRENCY_CONFLICT"),
        );
      }
      assert.equal((await store.events.readStream("partial")).length, 1);
    });

    test("the repetition of an append in one of two streams only is refused as a whole", async () => {
      await using store = await open(schema);
      const first = {
        stream: "half-a",
        expected: "any",
        events: events(1),
      } as const;
      await store.events.append([first]);
      const append = store.events.append([first, {
        stream: "half-b",
        expected: "any",
        events: events(1),
      }]);
      await assert.rejects(
        append,
        (error) => isMillstreamError(error, "CONCURRENCY_CONFLICT"),
      );
      assert.deepEqual(await streams(store, schema, "half-b"), []);
    });

    test("bodies come back byte for byte: escapes, astral characters, quotes, braces, newlines in JSON", async () => {
      await using store = await open(schema);
      const bodies = [
        '{"a":"\\u0000"}',
        '{"a":"😀 ü \\ud800"}',
        '["{","}","\\"", "\\\\", null, ",", ""]',
        '{\n\t"a" : 1}',
        '""',
      ];
      const some = events(bodies.length).map((event, n) => ({
        ...event,
        body: bodies[n] ?? "",
      }));
      await store.events.append([{
        stream: "bytes",
        expected: 0,
        events: some,
      }]);
      assert.deepEqual(
        (await store.events.readStream("bytes")).map(({ body }) => body),
        bodies,
      );
    });

    test("1,000 events for one stream go through in one call", async () => {
      await using store = await open(schema);
      const [result] = await store.events.append([{
        stream: "many",
        expected: 0,
        events: events(1_000),
      }]);
      assert.equal(result?.version, 1_000);
      const last = await store.events.readStream("many", {
        backwards: true,
        limit: 1,
      });
      assert.equal(last[0]?.position, result?.position);
    });
  });
}

async function streams(
  store: PostgresStore,
  schema: string,
  like: string,
): Promise<readonly unknown[]> {
  return await store.sql`select stream from ${store.sql(schema)}.streams where stream like ${like}`;
}
