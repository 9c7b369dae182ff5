import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import type { Broker, Subscription } from "../../src/ports/broker.ts";
import type { PostgresStore, Pruned } from "../../src/postgres/mod.ts";
import { eventually } from "../support/wait.ts";
import { messages, openers, uniqueSchema } from "./postgres_fixture.ts";

for (const { name, skip, open, drop, end } of [openers.postgres, openers.pglite]) {
  describe(`groups and retention on ${name}`, { skip }, () => {
    const schema = uniqueSchema("groups");
    after(async () => {
      await drop(schema);
      await end();
    });

    test("groups created while five publish: each gets every message once, from its table or from its publisher", async () => {
      await using store = await open(schema);
      const broker = store.broker();
      const published: string[] = [];
      let creating = true;
      const publishers = Promise.all([1, 2, 3, 4, 5].map(async () => {
        while (creating) {
          const some = messages(3);
          await broker.publish("busy", some);
          published.push(...some.map(({ id }) => id));
        }
      }));
      const groups: Subscription[] = [];
      for (let n = 0; n < 12; n++) {
        groups.push(await broker.subscribe("busy", `group-${n}`));
      }
      creating = false;
      await publishers;
      assert.ok(
        published.length >= 30,
        `only ${published.length} messages were published`,
      );
      for (const group of groups) {
        assert.deepEqual(
          (await takeAll(group)).sort(),
          published.sort(),
          group.group,
        );
      }
    });

    test("ten that create the same group at once: one group, each message once", async () => {
      await using store = await open(schema);
      const broker = store.broker();
      const some = messages(20);
      await broker.publish("same", some);
      const consumers = await Promise.all(
        Array.from({ length: 10 }, () => broker.subscribe("same", "group")),
      );
      const taken = (await Promise.all(consumers.map(takeAll))).flat();
      assert.deepEqual(taken.sort(), some.map(({ id }) => id).sort());
    });

    test("a group that was deleted is created again from the start, and its consumers go on", async () => {
      await using store = await open(schema);
      const broker = store.broker();
      const group = await broker.subscribe("vanishing", "group");
      const [first, second] = [messages(1), messages(1)];
      await broker.publish("vanishing", first);
      await takeAll(group);
      await store.sql`delete from ${store.sql(schema)}.groups where name = 'group'
        and topic_id = (select id from ${store.sql(schema)}.topics where name = 'vanishing')`;
      await broker.publish("vanishing", second);
      const again = await eventually(async () => {
        const taken = await takeAll(group);
        return taken.length > 0 && taken;
      });
      assert.deepEqual(again, [...first, ...second].map(({ id }) => id));
    });

    test("old messages go when every group has finished them; undelivered, delayed and dead ones stay", async () => {
      await using store = await open(schema, { retentionMs: 0 });
      const broker = store.broker();
      const [fast, slow] = [
        await broker.subscribe("old", "fast"),
        await broker.subscribe("old", "slow"),
      ];
      const [done, waiting, dead, later] = messages(4);
      assert.ok(done && waiting && dead && later);
      await broker.publish("old", [done, waiting, dead]);
      await broker.publish("old", [later], { delayMs: 60_000 });
      await takeAll(fast);
      for (const delivery of await slow.pull(10, { waitMs: 1_000 })) {
        if (delivery.id === done.id) await slow.ack([delivery]);
        if (delivery.id === dead.id) {
          await slow.deadLetter(delivery, { error: "E", message: "m", at: 1 });
        }
      }
      await pruneAll(store);
      assert.deepEqual(await kept(broker, "old", 3), [waiting.id, dead.id, later.id]);
      const [letter] = await broker.deadLetters.list({ topic: "old" }, {
        limit: 1,
      });
      assert.equal(letter?.body, dead.body);
      await broker.deadLetters.remove(letter?.deadLetterId ?? "");
      await pruneAll(store);
      assert.deepEqual(await kept(broker, "old", 2), [waiting.id, later.id]);
    });

    test("an id is recognised as long as the message is kept, and new again afterwards", async () => {
      await using store = await open(schema, { retentionMs: 0 });
      const broker = store.broker();
      const group = await broker.subscribe("again", "group");
      const some = messages(1);
      await broker.publish("again", some);
      await broker.publish("again", some);
      assert.equal((await takeAll(group)).length, 1);
      await broker.publish("again", some);
      assert.equal((await takeAll(group)).length, 0);
      await pruneAll(store);
      await broker.publish("again", some);
      assert.equal((await takeAll(group)).length, 1);
    });

    test("what a group handled and sagas that have ended are forgotten after their time; others stay", async () => {
      await using keeping = await open(schema);
      await using store = await open(schema, { inboxRetentionMs: 0, sagaRetentionMs: 0 });
      for (const group of ["one", "two"]) {
        for (let n = 0; n < 5; n++) await store.inbox.record(group, `m-${n}`);
      }
      const at = Date.now() - 1_000;
      const facts = {
        saga: "s",
        version: 1,
        data: {},
        steps: [],
        correlationId: "c",
        dueAt: at,
        startedAt: at,
        updatedAt: at,
      };
      const states = ["completed", "compensated", "compensation_failed", "running"] as const;
      await store.sagas.create(states.map((status) => ({ ...facts, id: `saga-${status}`, status })));
      assert.deepEqual(pruned(await keeping.prune()), [0, 0]);
      assert.deepEqual(pruned(await store.prune()), [10, 2]);
      assert.equal(await store.inbox.record("one", "m-0"), true);
      assert.deepEqual((await store.sagas.list({ saga: "s", limit: 10 })).map(({ id }) => id).sort(), [
        "saga-compensation_failed",
        "saga-running",
      ]);
    });

    test("sent outbox messages go after their time, unsent ones stay however old they are", async () => {
      await using store = await open(schema, { outboxRetentionMs: 0 });
      await store.outbox.add(
        messages(3).map((message) => ({ ...message, topic: "t" })),
      );
      const lease = await store.leases.acquire("relay", "test", 60_000);
      const [first, second, third] = await store.outbox.pending(10);
      assert.ok(lease && first && second && third);
      await store.outbox.markSent([first.position, third.position], lease);
      assert.equal((await store.prune()).outbox, 2);
      assert.deepEqual((await store.outbox.pending(10)).map(({ id }) => id), [
        second.id,
      ]);
    });
  });
}

async function takeAll(group: Subscription): Promise<string[]> {
  const ids: string[] = [];
  for (;;) {
    const some = await group.pull(50, { waitMs: 50 });
    if (some.length === 0) return ids;
    ids.push(...some.map(({ id }) => id));
    assert.deepEqual(await group.ack(some), []);
  }
}

function pruned({ inbox, sagas }: Pruned): readonly number[] {
  return [inbox, sagas];
}

/** Rounds of housekeeping until one finds nothing: a round looks at a bounded number of messages. */
async function pruneAll(store: PostgresStore): Promise<void> {
  while ((await store.prune()).messages > 0);
}

/** What the log has, once it shows as much: a transaction of anyone on this server holds new entries back. */
async function kept(broker: Broker, topic: string, expected: number): Promise<readonly string[]> {
  return await eventually(async () => {
    const page = await broker.log?.read(topic, "start", { limit: 100, waitMs: 0 });
    const ids = page?.entries.map(({ id }) => id) ?? [];
    return ids.length >= expected && ids;
  }, { withinMs: 30_000 });
}
