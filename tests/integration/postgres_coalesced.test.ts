/** What concurrent appends of one process do to each other, which is nothing, on a real server. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { startProxy } from "../support/proxy.ts";
import { dropSchema, events, server, uniqueSchema } from "./postgres_fixture.ts";

describe("appends that share a statement", { skip: server.skip }, () => {
  const schema = uniqueSchema("coalesced");
  after(() => dropSchema(schema));

  async function open(url = server.url): Promise<PostgresStore> {
    const store = postgres({ url, schema, timeoutMs: 30_000 });
    await store.start();
    return store;
  }

  test("a stream that a transaction keeps locked holds up its own appends only, also one that it is just creating", async () => {
    const [store, other] = [await open(), await open()];
    await store.events.append([{ stream: "held", expected: 0, events: events(1) }]);
    let heldUp: Promise<unknown> = Promise.resolve();
    let done = false;
    await other.transaction(async (tx) => {
      await tx.events.append([{ stream: "held", expected: 1, events: events(1) }]);
      await tx.events.append([{ stream: "created", expected: 0, events: events(1) }]);
      heldUp = Promise.allSettled([
        store.events.append([{ stream: "held", expected: 1, events: events(1) }]),
        store.events.append([{ stream: "held", expected: "any", events: events(1) }]),
        store.events.append([{ stream: "created", expected: "none", events: events(1) }]),
      ]).then((settled) => {
        done = true;
        return settled.map((one) => one.status === "fulfilled" ? one.value[0]?.version : one.reason.code);
      });
      for (let round = 0; round < 5; round++) {
        await Promise.all(
          Array.from(
            { length: 20 },
            (_, n) => store.events.append([{ stream: `free-${n}`, expected: round, events: events(1) }]),
          ),
        );
      }
      assert.equal(done, false);
    });
    assert.deepEqual(await heldUp, ["CONCURRENCY_CONFLICT", 3, "CONCURRENCY_CONFLICT"]);
    await other[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  test("an id that is in its stream already, among the appends of others: they succeed, and it is answered or refused", async () => {
    const store = await open();
    const [known, fresh] = events(2);
    await store.events.append([{ stream: "known", expected: 0, events: [known!] }]);
    const settled = await Promise.allSettled([
      store.events.append([{ stream: "k-1", expected: 0, events: events(1) }]),
      // Fits its version, so that nobody looked for its ids beforehand.
      store.events.append([{ stream: "known", expected: 1, events: [fresh!, known!] }]),
      store.events.append([{ stream: "k-2", expected: 0, events: events(3) }]),
      ...Array.from(
        { length: 10 },
        (_, n) => store.events.append([{ stream: `k-${n + 3}`, expected: 0, events: events(1) }]),
      ),
    ]);
    assert.deepEqual(settled.map(({ status }) => status), [
      "fulfilled",
      "rejected",
      ...Array(11).fill("fulfilled"),
    ]);
    const again = await store.events.append([{ stream: "known", expected: 1, events: [known!] }]);
    assert.equal(again[0]?.version, 1);
    assert.equal((await store.events.readStream("known")).length, 1);
    await store[Symbol.asyncDispose]();
  });

  test("replies that are lost: each caller is told that it cannot know, repeats, and each event is there once", async () => {
    const direct = await open();
    const address = new URL(server.url);
    const proxy = await startProxy(Number(address.port), { host: address.hostname });
    address.host = `127.0.0.1:${proxy.port}`;
    const store = await open(address.href);
    const batches = Array.from({ length: 40 }, (_, n) => ({
      stream: `reply-${n % 8}`,
      expected: "any" as const,
      events: events(2),
    }));
    let uncertain = 0;
    async function appendUntilDone(append: typeof batches[number]): Promise<void> {
      for (;;) {
        try {
          return void await store.events.append([append]);
        } catch (error) {
          if (!isMillstreamError(error, "COMMIT_INDETERMINATE", "UNAVAILABLE", "OVERLOADED")) throw error;
          if (error.code === "COMMIT_INDETERMINATE") uncertain++;
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
      }
    }
    const cut = proxy.setOn("append_many", "dropReplies").then(async () => {
      // Long enough for the statement to have run: its effect is what must not be doubled.
      await new Promise((resolve) => setTimeout(resolve, 300));
      await proxy.set("reset");
      await proxy.set("pass");
    });
    await Promise.all(batches.map(appendUntilDone));
    await cut;
    assert.ok(uncertain > 0, "no reply was lost");
    for (let stream = 0; stream < 8; stream++) {
      const stored = await direct.events.readStream(`reply-${stream}`);
      assert.deepEqual(stored.map(({ version }) => version), stored.map((_, n) => n + 1));
      const sent = batches.filter((batch) => batch.stream === `reply-${stream}`).flatMap((batch) =>
        batch.events
      );
      assert.deepEqual(stored.map(({ id }) => id).sort(), sent.map(({ id }) => id).sort());
    }
    await store[Symbol.asyncDispose]();
    await proxy[Symbol.asyncDispose]();
    await direct[Symbol.asyncDispose]();
  });

  test("events far apart: a read with a filter comes to them in bounded steps, and past the end of what it looked through", async () => {
    const store = await open();
    await store.sql`select setval(${`${schema}.event_positions`}::regclass, 1000000)`;
    const rare = events(1).map((event) => ({ ...event, type: "rare" }));
    const [result] = await store.events.append([{ stream: "rare-1", expected: 0, events: rare }]);
    assert.ok(result!.position > 1_000_000n);
    const page = await store.events.readAll(0n, { limit: 10, types: ["rare"], waitMs: 30_000 });
    assert.deepEqual(page.events.map(({ id }) => id), rare.map(({ id }) => id));
    const none = await store.events.readAll(0n, { limit: 10, types: ["never"] });
    assert.deepEqual([none.events.length, none.position], [0, result!.position]);
    await store[Symbol.asyncDispose]();
  });
});
