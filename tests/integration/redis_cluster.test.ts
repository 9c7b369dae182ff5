/** The broker on a cluster of real servers: the conformance suite, slots that move, and a server that dies. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import { redis } from "../../src/redis/mod.ts";
import { slotOf } from "../../src/redis/cluster.ts";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { service } from "../support/require.ts";
import { eventually } from "../support/wait.ts";
import { command } from "./support/redis_admin.ts";
import { startCluster } from "./support/redis_cluster.ts";

const binary = service("redis-server");

test("a key's slot is that of its hash tag", () => {
  assert.equal(slotOf("123456789"), 0x31c3); // the check value of the specification
  assert.equal(slotOf("p:{orders}:log"), slotOf("orders"));
  assert.equal(slotOf("{}x"), slotOf("{}x"));
  assert.notEqual(slotOf("{}x"), slotOf(""));
});

if (binary.skip) {
  test("redis-streams on a cluster: the conformance suite", { skip: binary.skip }, () => {});
} else {
  const cluster = await startCluster();
  after(() => cluster[Symbol.asyncDispose]());
  await brokerConformance({
    test,
    name: "redis-streams on a cluster",
    create() {
      const prefix = newPrefix();
      const connect = () => redis({ cluster: cluster.urls, prefix });
      const broker = connect();
      return Promise.resolve({
        broker,
        secondConnection: () => Promise.resolve(connect()),
        dispose: async () => await broker[Symbol.asyncDispose](),
      });
    },
  });

  test("topics lie on all servers, and one broker serves them all", async () => {
    const prefix = newPrefix();
    const broker = redis({ cluster: cluster.urls, prefix });
    try {
      const topics = Array.from({ length: 12 }, (_, n) => `topic${n}`);
      for (const topic of topics) await broker.publish(topic, [message("m", topic)]);
      for (const topic of topics) {
        const group = await broker.subscribe(topic, "workers");
        const got = await group.pull(1, { waitMs: 10_000 });
        assert.deepEqual(got.map(({ body }) => body), [`{"topic":"${topic}"}`]);
        await group.ack(got);
      }
      assert.equal((await broker.groups()).length, 12);
      for (const { url } of cluster.primaries) {
        const keys = await command(url, "keys", `${prefix}:{*`) as readonly string[];
        assert.ok(keys.length > 0, "a server has no topic");
      }
    } finally {
      await broker[Symbol.asyncDispose]();
    }
  });

  test("a slot moves to another server while it is used: every message comes once, in order", async () => {
    const broker = redis({ cluster: cluster.urls, prefix: newPrefix() });
    const [, from, to] = cluster.primaries;
    try {
      const topic = topicIn((slot) => slot > 6_000 && slot < 10_000);
      const slot = slotOf(topic);
      const group = await broker.subscribe(topic, "workers");
      const seen: string[] = [];
      const consuming = (async () => {
        while (seen.length < 120) {
          const some = await group.pull(10, { waitMs: 5_000 });
          seen.push(...some.map(({ id }) => id));
          assert.deepEqual(await group.ack(some), []);
        }
      })();
      const publishing = (async () => {
        for (let n = 0; n < 120; n++) await broker.publish(topic, [{ ...message(`m${n}`, topic), key: "k" }]);
      })();
      await eventually(() => seen.length > 20, { withinMs: 30_000 });
      const ids: string[] = [];
      for (const { url } of [from!, to!]) ids.push(String(await command(url, "cluster", "myid")));
      const [fromId = "", toId = ""] = ids;
      await command(to!.url, "cluster", "setslot", slot, "importing", fromId);
      await command(from!.url, "cluster", "setslot", slot, "migrating", toId);
      const keys = await command(from!.url, "cluster", "getkeysinslot", slot, 100) as readonly string[];
      await command(from!.url, "migrate", "127.0.0.1", to!.port, "", 0, 5_000, "KEYS", ...keys);
      // Now keys that exist are asked for at the new server, until everyone knows.
      await command(to!.url, "cluster", "setslot", slot, "node", toId);
      for (const { url } of cluster.primaries) await command(url, "cluster", "setslot", slot, "node", toId);
      await Promise.all([publishing, consuming]);
      assert.deepEqual(seen, Array.from({ length: 120 }, (_, n) => `m${n}`));
    } finally {
      await broker[Symbol.asyncDispose]();
    }
  });

  test("a server is killed: its replica takes over, nothing that it confirmed to replicas is lost", async () => {
    const broker = redis({ cluster: cluster.urls, prefix: newPrefix(), durability: "replicated" });
    try {
      const topic = topicIn((slot) => slot < 5_000);
      const group = await broker.subscribe(topic, "workers", { leaseMs: 2_000 });
      const confirmed: string[] = [];
      const seen = new Set<string>();
      let dead = false;
      const consuming = (async () => {
        while (!dead || confirmed.some((id) => !seen.has(id))) {
          const some = await group.pull(10, { waitMs: 1_000 }).catch(() => []);
          for (const { id } of some) seen.add(id);
          await group.ack(some).catch(() => {});
        }
      })();
      const publish = async (id: string): Promise<void> => {
        for (;;) {
          try {
            await broker.publish(topic, [message(id, topic)]);
            confirmed.push(id);
            return;
          } catch { /* again, with the same id */ }
        }
      };
      for (let n = 0; n < 20; n++) await publish(`before${n}`);
      await cluster.primaries[0]!.kill9();
      // The new primary has no replica, so only memory can be promised from here on.
      await eventually(
        async () =>
          await broker.publish(topic, [message("after", topic)], { durability: "memory" }).then(
            () => true,
            () => false,
          ),
        { withinMs: 60_000 },
      );
      confirmed.push("after");
      dead = true;
      await consuming;
      assert.deepEqual(confirmed.filter((id) => !seen.has(id)), []);
      assert.equal(confirmed.length, 21);
    } finally {
      await broker[Symbol.asyncDispose]();
    }
  });
}

function topicIn(fits: (slot: number) => boolean): string {
  for (;;) {
    const topic = `t${randomUUID().slice(0, 8)}`;
    if (fits(slotOf(topic))) return topic;
  }
}

function newPrefix(): string {
  return `t${randomUUID().slice(0, 8)}`;
}

function message(id: string, topic: string): { id: string; type: string; body: string } {
  return { id, type: "order.placed", body: `{"topic":"${topic}"}` };
}
