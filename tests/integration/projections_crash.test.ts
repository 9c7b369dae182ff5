/** Projectors that die or freeze in the middle: each event takes effect once, and another process goes on. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { type ScriptProcess, startScript } from "../support/process.ts";
import { scale } from "../support/scale.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";
import { append, createLedger, numbers, readLedger } from "./projections_fixture.ts";

const SCRIPT = new URL("./projections_child.ts", import.meta.url);
const withinMs = 60_000;

describe("two processes with the same projection", { skip: server.skip }, () => {
  const schemas: string[] = [];
  const children: ScriptProcess[] = [];
  after(async () => {
    for (const child of children) await child.kill9();
    for (const schema of schemas) await dropSchema(schema);
  });

  async function fresh(): Promise<{ readonly store: PostgresStore; readonly schema: string }> {
    const schema = uniqueSchema("proj");
    schemas.push(schema);
    const store = postgres({ driver: openDriver(), schema, pollMs: 20 });
    await store.start();
    await createLedger(store, schema);
    return { store, schema };
  }

  async function start(schema: string, worker: string, delayMs: number): Promise<ScriptProcess> {
    const child = startScript(SCRIPT, { args: [schema, worker, String(delayMs), "50"] });
    children.push(child);
    await child.line("runs", { withinMs });
    return child;
  }

  /** All events of all streams once, each stream in its order. Returns who applied them. */
  async function check(
    store: PostgresStore,
    schema: string,
    streams: number,
    each: number,
  ): Promise<Set<string>> {
    const lines = await readLedger(store, schema);
    assert.equal(lines.length, streams * each);
    for (let at = 1; at < lines.length; at++) {
      assert.ok(BigInt(lines[at]!.position) > BigInt(lines[at - 1]!.position), `line ${at} is out of order`);
    }
    for (let n = 0; n < streams; n++) {
      const versions = lines.filter(({ stream }) => stream === `s-${n}`).map(({ version }) => version);
      assert.deepEqual(versions, numbers(each), `versions of s-${n}`);
    }
    return new Set(lines.map(({ worker }) => worker));
  }

  test("killed with kill -9 again and again while they catch up: each event takes effect once, in order", async () => {
    const { store, schema } = await fresh();
    const [streams, each, kills] = [10, 200, Math.ceil(3 * scale)];
    for (let n = 0; n < streams; n++) await append(store, `s-${n}`, numbers(each));
    const applied = async (): Promise<number> => {
      const [row] = await store.sql<{ n: number }>`select count(*)::int as n from ${
        store.sql(`${schema}.ledger`)
      }`;
      return row!.n;
    };
    for (let kill = 0; kill < kills; kill++) {
      const before = await applied();
      const child = await start(schema, `w-${kill}`, 2);
      await eventually(async () => await applied() > before || before === streams * each, {
        withinMs,
        everyMs: 2,
      });
      await child.kill9();
      // The killed process holds the lease for the rest of its time. Nobody has to wait for that in a test.
      await store.leases.revoke("projection/ledger");
    }
    await start(schema, "last", 0);
    await eventually(async () => await applied() >= streams * each, { withinMs });
    assert.ok((await check(store, schema, streams, each)).size >= 2);
    await store[Symbol.asyncDispose]();
  });

  test("the leader frozen with SIGSTOP past its lease: the other goes on, and the leader is refused when it wakes up", async () => {
    const { store, schema } = await fresh();
    const each = 3_000;
    for (let from = 0; from < each; from += 500) {
      await append(store, "s-0", numbers(500).map((n) => n + from));
    }
    const leader = await start(schema, "leader", 20);
    await leader.line("projected", { withinMs });
    const other = await start(schema, "other", 0);
    leader.sigstop();
    await other.line("projected", { withinMs }); // it took over, whether the leader froze in a transaction or not
    leader.sigcont();
    await eventually(() => /lease-lost|failed/.test(leader.output()), { withinMs });
    await eventually(async () => (await readLedger(store, schema)).length >= each, { withinMs });
    assert.deepEqual(await check(store, schema, 1, each), new Set(["leader", "other"]));
    await store[Symbol.asyncDispose]();
  });
});
