import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { postgres, type PostgresStore } from "../../src/postgres/mod.ts";
import { eventually } from "../support/wait.ts";
import { dropSchema, hold, messages, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

const LONG = 600_000;

describe("messages whose time has not come, on postgres", { skip: server.skip }, () => {
  const schema = uniqueSchema("scheduled");
  after(() => dropSchema(schema));

  test("cancelled while a new group is being created from the start: the group waits, and does not get it", async () => {
    const { store, driver, close } = await setUp();
    const broker = store.broker();
    const [message] = messages(1);
    assert.ok(message);
    await broker.publish("creating", [message], { delayMs: LONG });
    let joining: Promise<unknown> | undefined;
    await hold(driver, async (session) => {
      await session.query(`select ${schema}.cancel_scheduled('creating', $1::text)`, [message.id]);
    }, async () => {
      joining = broker.subscribe("creating", "new");
      await eventually(() => waitsForLock(store), { withinMs: 30_000 });
    });
    await joining;
    assert.deepEqual(await broker.groups({ topic: "creating" }), [
      { topic: "creating", group: "new", ready: 0, inFlight: 0, delayed: 0, dead: 0 },
    ]);
    await close();
  });

  test("given another time while it falls due: the pull that takes it and the change exclude each other", async () => {
    const { store, close } = await setUp();
    const broker = store.broker();
    const group = await broker.subscribe("due", "group");
    let [moved, taken] = [0, 0];
    for (let round = 0; round < 30; round++) {
      const [message] = messages(1);
      assert.ok(message);
      await broker.publish("due", [message], { delayMs: 20 });
      const pulling = group.pull(1, { waitMs: 120 });
      await new Promise((resolve) => setTimeout(resolve, 5 + round % 20));
      const changed = await broker.scheduled?.reschedule("due", message.id, LONG);
      let deliveries = await pulling;
      // A busy machine may be late; what was not put off comes.
      if (!changed && deliveries.length === 0) deliveries = await group.pull(1, { waitMs: 30_000 });
      if (changed) moved++;
      taken += deliveries.length;
      assert.equal(deliveries.length, changed ? 0 : 1, "either handed out or put off, and not both");
      await group.ack(deliveries);
    }
    assert.equal(moved + taken, 30);
    assert.equal((await group.lag()).delayed, moved);
    await close();
  });

  test("cancelled and given another time at once, with three groups: no two sessions wait for each other", async () => {
    const { store, close } = await setUp();
    const broker = store.broker();
    for (const group of ["a", "b", "c"]) await broker.subscribe("both", group);
    for (const message of messages(20)) {
      await broker.publish("both", [message], { delayMs: LONG });
      const [again, cancelled] = await Promise.all([
        broker.scheduled?.reschedule("both", message.id, LONG),
        broker.scheduled?.cancel("both", message.id),
      ]);
      assert.equal(cancelled, true);
      assert.equal(typeof again, "boolean");
    }
    for (const { delayed, ready } of await broker.groups({ topic: "both" })) assert.equal(delayed + ready, 0);
    await close();
  });

  async function setUp() {
    const driver = openDriver();
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    const close = async (): Promise<void> => {
      await store[Symbol.asyncDispose]();
      await driver[Symbol.asyncDispose]();
    };
    return { store, driver, close };
  }

  async function waitsForLock({ sql }: PostgresStore): Promise<boolean> {
    const rows = await sql`select 1 from pg_stat_activity
      where wait_event_type = 'Lock' and query like ${`%${schema}%`}`;
    return rows.length > 0;
  }
});
