/** What holds up the order of all events, and what breaks it. On a server of its own, which is replaced by its past. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { StoredEvent } from "../../src/ports/event_store.ts";
import { postgres, postgresJsDriver, type PostgresStore } from "../../src/postgres/mod.ts";
import { service } from "../support/require.ts";
import { type PrivateServer, startPostgres } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { events } from "./postgres_fixture.ts";

const WITHIN = { withinMs: 30_000 };

describe("the order of all events on a server of its own", { skip: service("postgres-server").skip }, () => {
  let server: PrivateServer;
  before(async () => void (server = await startPostgres({ settings: { max_prepared_transactions: "4" } })));
  after(async () => await server?.stop());

  async function open(schema: string): Promise<PostgresStore> {
    const store = postgres({ url: server.url, schema, max: 3 });
    await store.start();
    return store;
  }

  test("a transaction that writes in another database holds it up: the status says for how long, and names the backend", async () => {
    const store = await open("status");
    const admin = postgresJsDriver({ url: server.url, max: 1 });
    await admin.query("create database elsewhere");
    const elsewhere = postgresJsDriver({
      url: server.url.replace(/postgres$/, "elsewhere"),
      applicationName: "forgotten",
    });
    await store.events.append([{ stream: "a", expected: 0, events: events(1) }]);
    await caughtUp(store);

    await elsewhere.transaction(async (session) => {
      const [own] = await session.query<{ pid: number }>(
        "select pg_backend_pid() as pid, pg_current_xact_id()",
      );
      const [result] = await store.events.append([{ stream: "b", expected: 0, events: events(1) }]);
      const first = await store.watermark();
      assert.ok(first.position < result!.position);
      assert.equal(first.newest, result!.position);
      const { pid, application, database, state, openMs } = first.blocker ?? {};
      assert.deepEqual([pid, application, database], [own?.pid, "forgotten", "elsewhere"]);
      assert.match(String(state), /in transaction/);
      assert.ok(openMs !== undefined && openMs >= 0);
      const later = await eventually(async () => {
        const status = await store.watermark();
        return status.ageMs > first.ageMs + 100 && status;
      }, WITHIN);
      assert.equal(later.position, first.position);
      assert.deepEqual((await store.events.readAll(first.position, { limit: 10 })).events, []);
    });

    await caughtUp(store);
    assert.equal((await store.watermark()).blocker, undefined);
    await elsewhere[Symbol.asyncDispose]();
    await admin[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  test("a prepared transaction that was forgotten holds it up as well, and is named", async () => {
    const store = await open("prepared");
    const admin = postgresJsDriver({ url: server.url, max: 1 });
    await admin.query("create table forgotten (n int)");
    await admin.script("begin; insert into forgotten values (1); prepare transaction 'two phases'");
    const [result] = await store.events.append([{ stream: "a", expected: 0, events: events(1) }]);
    const { blocker, position } = await store.watermark();
    assert.deepEqual([blocker?.prepared, blocker?.pid, blocker?.database], [
      "two phases",
      undefined,
      "postgres",
    ]);
    assert.ok(position < result!.position);
    await admin.script("rollback prepared 'two phases'");
    await caughtUp(store);
    await admin[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  test("a server that is restarted with all its data: whoever read from it reads on", async () => {
    const store = await open("restarted");
    await store.events.append([{ stream: "a", expected: 0, events: events(3) }]);
    const { position } = await readOn(store, { after: 0n, count: 3 });
    await server.restart();
    await eventually(() => store.ping().then(() => true), WITHIN);
    await store.events.append([{ stream: "a", expected: 3, events: events(2) }]);
    const page = await readOn(store, { after: position, count: 2 });
    assert.deepEqual(page.events.map(({ version }) => version), [4, 5]);
    await store[Symbol.asyncDispose]();
  });

  test("committed events that a failover lost: a new process refuses to wait behind the end, and one that read them stops, even when their positions are used again", async () => {
    const store = await open("lost");
    await store.events.append([{ stream: "a", expected: 0, events: events(3) }]);
    const other = await open("lost");
    const early = await readOn(other, { after: 0n, count: 3 });
    await backUp();
    await store.events.append([{ stream: "a", expected: 3, events: events(4) }]);
    const late = await readOn(store, { after: early.position, count: 4 });

    await goBack();
    await eventually(() => store.ping().then(() => true), WITHIN);
    const fresh = await open("lost");
    await assert.rejects(fresh.events.readAll(late.position, { limit: 1, waitMs: 60_000 }), {
      code: "INVALID_ARGUMENT",
      message: /lost committed events/,
    });
    await fresh[Symbol.asyncDispose]();
    // As many events as were lost, and more: the reader's position exists again, for something else.
    await store.events.append([{ stream: "b", expected: 0, events: events(40) }]);
    const again = await other.events.readAll(early.position, { limit: 1 });
    assert.ok((again.events[0]?.position ?? 0n) <= late.position, "positions were not used again");
    for (let attempt = 0; attempt < 2; attempt++) {
      await assert.rejects(store.events.readAll(late.position, { limit: 10 }), (error: unknown) => {
        const { code, retryable, details } = error as { code: string; retryable: boolean; details: object };
        assert.deepEqual([code, retryable], ["REJECTED", false]);
        const { lost, position, id } = details as Record<string, unknown>;
        assert.deepEqual([lost, position, id], [true, String(late.position), late.events.at(-1)?.id]);
        return true;
      });
    }
    // Who had not come so far has missed nothing.
    assert.equal((await readOn(other, { after: early.position, count: 40 })).events.length, 40);
    await other[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  test("a restore of the tables without the sequence: positions go on behind the last event", async () => {
    const store = await open("restored");
    const [last] = await store.events.append([{ stream: "a", expected: 0, events: events(5) }]);
    await store.sql`select setval('restored.event_positions', 1, false)`;
    await store[Symbol.asyncDispose]();
    const restored = await open("restored");
    const [next] = await restored.events.append([{ stream: "b", expected: 0, events: events(1) }]);
    assert.equal(next!.position, last!.position + 1n);
    await restored.start(); // again: changes nothing
    const [after] = await restored.events.append([{ stream: "b", expected: 1, events: events(1) }]);
    assert.equal(after!.position, last!.position + 2n);
    await restored[Symbol.asyncDispose]();
  });

  /** Keeps a copy of all data, as an asynchronous standby has it that then falls behind. */
  async function backUp(): Promise<void> {
    await server.kill9();
    replace("copy", "data");
    await server.restart();
  }

  /** The copy takes over. */
  async function goBack(): Promise<void> {
    await server.kill9();
    replace("data", "copy");
    await server.restart();
  }

  /** With owners and modes, which Postgres looks at. */
  function replace(folder: string, by: string): void {
    rmSync(join(server.folder, folder), { recursive: true, force: true });
    execFileSync("cp", ["-a", join(server.folder, by), join(server.folder, folder)]);
  }
});

async function caughtUp(store: PostgresStore): Promise<void> {
  await eventually(async () => {
    const { position, newest, ageMs } = await store.watermark();
    return position === newest && ageMs === 0;
  }, WITHIN);
}

async function readOn(
  { events }: PostgresStore,
  { after, count }: { readonly after: bigint; readonly count: number },
): Promise<{ readonly events: readonly StoredEvent[]; readonly position: bigint }> {
  return await eventually(async () => {
    const page = await events.readAll(after, { limit: 100 });
    return page.events.length >= count && page;
  }, WITHIN);
}
