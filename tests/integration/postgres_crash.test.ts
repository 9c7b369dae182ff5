import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { postgres } from "../../src/postgres/mod.ts";
import { startScript } from "../support/process.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, messages, openDriver, openPGlite, server, uniqueSchema } from "./postgres_fixture.ts";

const SCRIPT = new URL("./postgres_crash_child.ts", import.meta.url);

describe("a consumer that is killed", { skip: server.skip }, () => {
  const schema = uniqueSchema("crash");
  after(() => dropSchema(schema));

  test("with kill -9 while it holds deliveries: another gets all of them when the lease has run out, in order", async () => {
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    const broker = store.broker();
    const some = [...messages(5), ...messages(2, { key: "k" })];
    await broker.publish("work", some);
    const leaseMs = 1_500;
    const child = startScript(SCRIPT, {
      args: ["consumer", schema, String(leaseMs)],
    });
    const held = (await child.line("holds ", { withinMs: 60_000 })).split(" ")
      .slice(1);
    const start = performance.now();
    await child.kill9();
    assert.deepEqual(held, some.slice(0, 6).map(({ id }) => id));

    const group = await broker.subscribe("work", "workers");
    const taken: string[] = [];
    while (taken.length < 7 && performance.now() - start < 60_000) {
      const deliveries = await group.pull(10, { waitMs: 500 });
      for (const { id, redelivered, attempt } of deliveries) {
        assert.deepEqual([redelivered, attempt], [held.includes(id), 1], id);
        taken.push(id);
      }
      assert.deepEqual(await group.ack(deliveries), []);
    }
    assert.deepEqual(taken, some.map(({ id }) => id));
    assert.ok(
      performance.now() - start < leaseMs + 20_000,
      "it took longer than the lease",
    );
    await store[Symbol.asyncDispose]();
  });
});

describe("PGlite on disk", () => {
  const folder = mkdtempSync(join(tmpdir(), "millstream-"));
  after(() => rmSync(folder, { recursive: true, force: true }));

  test("killed with kill -9 while it writes: opened again, it has every acknowledged append, message and delivery", async () => {
    const child = startScript(SCRIPT, { args: ["pglite", folder] });
    const acknowledged = { append: 0, publish: 0, settle: 0 };
    await child.line("wrote 60", { withinMs: 80_000 });
    await child.kill9();
    for (const line of child.output().split("\n")) {
      const [what, count] = line.split(" ");
      if (what === "append" || what === "publish" || what === "settle") {
        acknowledged[what] = Number(count);
      }
    }
    assert.ok(
      acknowledged.append >= 59 && acknowledged.publish >= 59 &&
        acknowledged.settle >= 59,
    );

    const pglite = await openPGlite(folder);
    const store = postgres({ pglite });
    await store.start();
    const versions = (await store.events.readStream("stream")).map((
      { version },
    ) => version);
    assert.deepEqual(
      versions,
      Array.from({ length: versions.length }, (_, n) => n + 1),
    );
    assert.ok(
      versions.length >= acknowledged.append,
      `${versions.length} of ${acknowledged.append} appends`,
    );
    await eventually(async () => {
      const page = await store.events.readAll(0n, { limit: 10_000 });
      assert.equal(page.events.length, versions.length);
    });
    const broker = store.broker();
    const published = await eventually(async () => {
      const log = await broker.log?.read("topic", "start", { limit: 10_000, waitMs: 100 });
      const count = log?.entries.length ?? 0;
      assert.ok(count >= acknowledged.publish, `${count} of ${acknowledged.publish} messages`);
      return count;
    });
    const group = await broker.subscribe("topic", "group");
    const { ready, inFlight } = await group.lag();
    const settled = published - ready - inFlight;
    assert.ok(
      settled >= acknowledged.settle,
      `${settled} of ${acknowledged.settle} settlements`,
    );
    await store[Symbol.asyncDispose]();
    await pglite.close();
  });
});
