import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import postgresJs from "postgres";
import { type CallersSession, postgres } from "../../src/postgres/mod.ts";
import { dropSchema, events, messages, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

/** One transaction of a client that the store knows nothing of. */
type Begin = (work: (session: CallersSession) => Promise<void>) => Promise<void>;

describe("the caller's own transaction", { skip: server.skip }, () => {
  const schema = uniqueSchema("within");
  after(() => dropSchema(schema));

  test("of postgres.js: appends, outbox and inbox commit with the caller's rows, or not at all", async () => {
    const sql = postgresJs(server.url, { max: 1, onnotice: () => {} });
    await proves(async (work) => {
      await sql.begin((tx) => work({ query: (text, values) => tx.unsafe(text, values) }));
    });
    await sql.end();
  });

  test("of pg: appends, outbox and inbox commit with the caller's rows, or not at all", async () => {
    const { default: pg } = await import("pg" as string) as {
      default: { Client: new (url: string) => PgClient };
    };
    const client = new pg.Client(server.url);
    await client.connect();
    await proves(async (work) => {
      await client.query("begin");
      try {
        await work({ query: async (text, values) => (await client.query(text, values)).rows });
        await client.query("commit");
      } catch (error) {
        await client.query("rollback");
        throw error;
      }
    });
    await client.end();
  });

  async function proves(begin: Begin): Promise<void> {
    await using store = postgres({ driver: openDriver(), schema });
    await store.start();
    const table = `${schema}.orders`;
    await store.sql`create table if not exists ${store.sql(table)} (id text)`;
    await store.sql`delete from ${store.sql(table)}`;
    const write = (stream: string, fails: boolean) =>
      begin(async (session) => {
        await session.query(`insert into ${table} values ($1)`, [stream]);
        const ports = store.within(session);
        const [result] = await ports.events.append([{ stream, expected: 0, events: events(3) }]);
        assert.equal(result?.version, 3);
        await ports.outbox.add(messages(2).map((message) => ({ ...message, topic: stream })));
        assert.equal(await ports.inbox.record("group", stream), true);
        assert.equal((await ports.events.readStream(stream)).length, 3);
        if (fails) throw new Error("rolled back on purpose");
      });
    const [kept, undone] = [uniqueSchema("kept"), uniqueSchema("undone")];
    await write(kept, false);
    await assert.rejects(write(undone, true), /on purpose/);
    assert.deepEqual(await store.sql`select id from ${store.sql(table)}`, [{ id: kept }]);
    assert.deepEqual([
      (await store.events.readStream(kept)).length,
      (await store.events.readStream(undone)).length,
    ], [
      3,
      0,
    ]);
    const pending = (await store.outbox.pending(100)).map(({ topic }) => topic);
    assert.deepEqual([pending.filter((topic) => topic === kept).length, pending.includes(undone)], [
      2,
      false,
    ]);
    assert.deepEqual([...await store.inbox.seen("group", [kept, undone])].length, 1);
  }
});

interface PgClient {
  connect(): Promise<void>;
  query(text: string, values?: readonly unknown[]): Promise<{ readonly rows: readonly unknown[] }>;
  end(): Promise<void>;
}
