import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import type { Delivery, Subscription } from "../../src/ports/broker.ts";
import type { SqlDriver, SqlSession } from "../../src/ports/sql.ts";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { eventually, within } from "../support/wait.ts";
import { dropSchema, hold, messages, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

/** Interleavings of two sessions: one is stopped before its commit, which only a raw session can do. */
describe("deliveries of one key", { skip: server.skip }, () => {
  const schema = uniqueSchema("keys");
  after(() => dropSchema(schema));

  test("published late with a lower position, while a later one is out: it waits until that is settled", async () => {
    const { driver, store, group, topic, close } = await setUp("late");
    let out: readonly Delivery[] = [];
    await hold(driver, async (session) => {
      await publish(session, topic, "first", "k");
    }, async () => {
      await store.broker().publish(topic, [{
        id: "second",
        type: "t",
        key: "k",
        body: "{}",
      }]);
      out = await group.pull(10, { waitMs: 30_000 });
    });
    assert.deepEqual(ids(out), ["second"]);
    assert.deepEqual(ids(await group.pull(10, { waitMs: 100 })), []);
    await group.ack(out);
    assert.deepEqual(ids(await group.pull(10, { waitMs: 30_000 })), ["first"]);
    await close();
  });

  test("a pull that has not committed its claim: a second pull waits for it, and takes no other of that key", async () => {
    const { driver, store, group, topic, close } = await setUp("race");
    // `first` is drawn before `second` and committed after the first pull has looked.
    let second: Promise<readonly Delivery[]> | undefined;
    const late = openDriver();
    await hold(late, async (session) => {
      await publish(session, topic, "first", "k");
    }, async (commitLate) => {
      await store.broker().publish(topic, [{
        id: "second",
        type: "t",
        key: "k",
        body: "{}",
      }]);
      await hold(driver, async (session) => {
        const claimed = await session.query<{ id: string }>(
          `select * from ${schema}.pull(${await groupId(
            driver,
            topic,
          )}, 'other', 10, 30000)`,
        );
        assert.deepEqual(claimed.map(({ id }) => id), ["second"]);
      }, async () => {
        await commitLate();
        second = group.pull(10, { waitMs: 0 });
        await eventually(async () =>
          await waitsForLock(driver) ||
          (await within(50, second ?? [], "")).length > 0
        );
      });
    });
    assert.deepEqual(
      ids(await second ?? []),
      [],
      "both are out at the same time",
    );
    await late[Symbol.asyncDispose]();
    await close();
  });

  test("a pull parks the followers while their predecessor is being settled: the settlement waits, then frees them", async () => {
    const { driver, store, group, topic, close } = await setUp("park");
    await store.broker().publish(topic, messages(200, { key: "k" }));
    const [head] = await group.pull(1, { waitMs: 30_000 });
    assert.ok(head);
    let settled: Promise<unknown> | undefined;
    await hold(driver, async (session) => {
      const rows = await session.query(
        `select * from ${schema}.pull(${await groupId(
          driver,
          topic,
        )}, 'other', 10, 30000)`,
      );
      assert.equal(rows.length, 0);
    }, async () => {
      settled = group.ack([head]);
      await eventually(async () =>
        await waitsForLock(driver) ||
        await within(50, settled?.then(() => true), "")
      );
    });
    await settled;
    assert.equal(await parked(driver, topic), 198);
    assert.equal(
      (await group.pull(10, { waitMs: 30_000 })).length,
      1,
      "the follower is stranded",
    );
    await close();
  });

  test("the old and the new delivery of a message, settled in one call by the consumer that lost it and took it again", async () => {
    const { store, topic, close } = await setUp("twice");
    const broker = store.broker();
    const group = await broker.subscribe(topic, "group", { leaseMs: 50 });
    await broker.publish(topic, messages(1));
    const [old] = await group.pull(1, { waitMs: 30_000 });
    const [again] = await group.pull(1, { waitMs: 30_000 });
    assert.ok(old && again && again.redelivered);
    await group.ack([again, old]);
    assert.deepEqual(await group.lag(), { ready: 0, inFlight: 0, delayed: 0, dead: 0 });
    await close();
  });

  test("a backlog of one key holds up nothing else, is handed out in order, and leaves nothing behind", async () => {
    const { store, driver, topic, close } = await setUp("backlog");
    const broker = store.broker();
    const hot = messages(400, { key: "hot" });
    await broker.publish(topic, hot);
    const others = messages(20);
    await broker.publish(topic, others);
    const consumers = await Promise.all(
      [0, 1, 2].map(() => broker.subscribe(topic, "group")),
    );
    const handled: string[] = [];
    const end = performance.now() + 60_000;
    await Promise.all(consumers.map(async (consumer) => {
      while (handled.length < 420 && performance.now() < end) {
        const some = await consumer.pull(10, { waitMs: 100 });
        handled.push(...ids(some));
        await consumer.ack(some);
      }
    }));
    assert.deepEqual(
      handled.filter((id) => hot.some((message) => message.id === id)),
      hot.map(({ id }) => id),
    );
    const lastOther = Math.max(...others.map(({ id }) => handled.indexOf(id)));
    assert.ok(
      lastOther < 100,
      `the last of the other messages came as number ${lastOther}`,
    );
    assert.equal(
      (await driver.query(
        `select 1 from ${schema}.deliveries where group_id = ${await groupId(
          driver,
          topic,
        )}`,
      )).length,
      0,
    );
    await close();
  });

  async function setUp(topic: string): Promise<World> {
    const driver = openDriver();
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    const group = await store.broker().subscribe(topic, "group");
    const close = async (): Promise<void> => {
      await store[Symbol.asyncDispose]();
      await driver[Symbol.asyncDispose]();
    };
    return { driver, store, group, topic, close };
  }

  async function groupId(driver: SqlSession, topic: string): Promise<number> {
    const [row] = await driver.query<{ id: number }>(
      `select g.id from ${schema}.groups g join ${schema}.topics t on t.id = g.topic_id where t.name = $1::text`,
      [topic],
    );
    return row?.id ?? 0;
  }

  async function parked(driver: SqlSession, topic: string): Promise<number> {
    const sql =
      `select count(*)::int as n from ${schema}.deliveries where group_id = $1::int and ready_at = 'infinity'`;
    const [row] = await driver.query<{ n: number }>(sql, [
      await groupId(driver, topic),
    ]);
    return row?.n ?? 0;
  }

  async function publish(
    session: SqlSession,
    topic: string,
    id: string,
    key: string,
  ): Promise<void> {
    await session.query(
      `select ${schema}.publish($1::text, $2::text[], $3::text[], $4::text[], $5::text[], 0)`,
      [
        topic,
        [id],
        ["t"],
        [key],
        ["{}"],
      ],
    );
  }

  /** Whether a session waits for a lock that this schema's tests can be the cause of. */
  async function waitsForLock(driver: SqlSession): Promise<boolean> {
    const sql = `select 1 from pg_stat_activity where wait_event_type = 'Lock' and query like $1::text`;
    return (await driver.query(sql, [`%${schema}%`])).length > 0;
  }
});

interface World {
  readonly driver: SqlDriver;
  readonly store: PostgresStore;
  readonly group: Subscription;
  readonly topic: string;
  readonly close: () => Promise<void>;
}

function ids(deliveries: readonly Delivery[]): readonly string[] {
  return deliveries.map(({ id }) => id);
}
