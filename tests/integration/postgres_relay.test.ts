import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { type ScriptProcess, startScript } from "../support/process.ts";
import { scale } from "../support/scale.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

const SCRIPT = new URL("./support/relay_process.ts", import.meta.url);
const LEASE_MS = 1_000;
const FREEZES = Math.ceil(3 * scale);
const KEYS = 5;

describe("two relays", { skip: server.skip }, () => {
  const schema = uniqueSchema("relays");
  after(() => dropSchema(schema));

  test("the leader frozen past its lease again and again, then killed: nothing lost, each lane in order, repeats under their ids", async () => {
    await using store = postgres({ driver: openDriver(), schema });
    await store.start();
    const table = store.sql(`${schema}.arrivals`);
    await store
      .sql`create table ${table} (seq bigint generated always as identity, id text, key text, relay text)`;
    const relays = new Map(["a", "b"].map((owner) => [owner, relayProcess(schema, owner)]));
    for (const relay of relays.values()) await relay.line("relays", { withinMs: 60_000 });
    const writing = write(store);
    try {
      for (let freeze = 0; freeze < FREEZES; freeze++) {
        const [leader, other] = await leaderOf(store, schema, relays);
        leader.relay.sigstop();
        await eventually(async () => (await holder(store, schema)) === other, { withinMs: 60_000 });
        const before = await arrived(store, schema, other);
        await eventually(async () => (await arrived(store, schema, other)) > before, { withinMs: 60_000 });
        leader.relay.sigcont();
      }
      const [leader] = await leaderOf(store, schema, relays);
      await leader.relay.kill9();
      const committed = await writing.stop();
      await eventually(async () => await store.outbox.oldestAgeMs() === 0, { withinMs: 60_000 });

      const rows = await store.sql<{ id: string; key: string }>`select id, key from ${table} order by seq`;
      const seen = new Set<string>();
      const first = rows.filter(({ id }) => !seen.has(id) && seen.add(id));
      assert.ok(committed.length > 50, `only ${committed.length} messages were written`);
      assert.deepEqual([...seen].sort(), [...committed].sort());
      for (let key = 0; key < KEYS; key++) {
        const numbers = first.filter((row) => row.key === `k${key}`).map(({ id }) =>
          Number(id.split("-")[1])
        );
        assert.deepEqual(numbers, [...numbers].sort((a, b) => a - b), `lane k${key}`);
      }
      console.log(
        `# ${committed.length} messages, ${writing.rolledBack()} rolled back, ${FREEZES} freezes, ` +
          `${rows.length - seen.size} repeats, 0 lost, 0 out of order`,
      );
    } finally {
      await writing.stop();
      for (const relay of relays.values()) await relay.kill9();
    }
  });
});

function relayProcess(schema: string, owner: string): ScriptProcess {
  return startScript(SCRIPT, { args: [schema, owner, String(LEASE_MS)] });
}

/** Writes numbered messages of several keys, in transactions of which some are rolled back, until it is stopped. */
function write(store: PostgresStore) {
  const committed: string[] = [];
  let rolledBack = 0;
  let stopped = false;
  const writers = Promise.all(Array.from({ length: KEYS }, async (_, key) => {
    for (let n = 0; !stopped; n += 2) {
      const ids = [`k${key}-${n}`, `k${key}-${n + 1}`];
      const work = store.transaction(async ({ outbox }) => {
        await outbox.add(
          ids.map((id) => ({ topic: `t${key % 2}`, key: `k${key}`, id, type: "t", body: "{}" })),
        );
        if (n % 14 === 12) throw ROLLBACK;
      });
      await work.then(() => committed.push(...ids), (error) => {
        if (error !== ROLLBACK) throw error;
        rolledBack++;
      });
      await new Promise((resolve) => setTimeout(resolve, 15));
    }
  }));
  return {
    rolledBack: () => rolledBack,
    async stop() {
      stopped = true;
      await writers;
      return committed;
    },
  };
}

const ROLLBACK = new Error("rolled back on purpose");

async function holder({ sql }: PostgresStore, schema: string): Promise<string | undefined> {
  const [row] = await sql<{ owner: string }>`select owner from ${sql(`${schema}.leases`)}
    where name = 'relay' and expires_at > clock_timestamp()`;
  return row?.owner ?? undefined;
}

async function leaderOf(
  store: PostgresStore,
  schema: string,
  relays: ReadonlyMap<string, ScriptProcess>,
): Promise<[leader: { readonly relay: ScriptProcess }, other: string]> {
  const owner = await eventually(async () => (await holder(store, schema)) ?? false, { withinMs: 60_000 });
  const relay = relays.get(owner);
  assert.ok(relay, `the lease is held by ${owner}`);
  return [{ relay }, owner === "a" ? "b" : "a"];
}

async function arrived({ sql }: PostgresStore, schema: string, relay: string): Promise<number> {
  const [row] = await sql<{ n: number }>`select count(*)::int as n from ${sql(`${schema}.arrivals`)}
    where relay = ${relay}`;
  return row?.n ?? 0;
}
