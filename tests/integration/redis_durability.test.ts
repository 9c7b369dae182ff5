/** When a message counts as published, what may be removed, and what a server should be warned about. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { systemClock } from "../../src/core/clock.ts";
import type { Observation } from "../../src/core/observer.ts";
import { redis } from "../../src/redis/mod.ts";
import { service } from "../support/require.ts";
import { startRedis } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { command, removeKeys } from "./support/redis_admin.ts";
import { startSentinel } from "./support/redis_sentinel.ts";

const { url, skip } = service("redis");
const binary = service("redis-server");

test(
  "what a replica has survives the primary's death: Sentinel names the replica, and everything goes on there",
  { skip: binary.skip },
  async () => {
    const primary = await startRedis();
    const replica = await startRedis({ args: ["--replicaof", "127.0.0.1", String(primary.port)] });
    const replicas = [primary, replica];
    const link = async (): Promise<string> => String(await command(replica.url, "info", "replication"));
    await eventually(async () => (await link()).includes("master_link_status:up"), { withinMs: 30_000 });
    const sentinel = await startSentinel("main", primary);
    const target = { sentinel: { urls: ["redis://127.0.0.1:1", sentinel.url], name: "main" } };
    const broker = redis({ ...target, prefix: "t", durability: "replicated", timeoutMs: 2_000 });
    try {
      const group = await broker.subscribe("orders", "billing", { leaseMs: 3_000 });
      for (let n = 0; n < 10; n++) await broker.publish("orders", [message(`m${n}`)]);
      await broker.publish("orders", [message("later")], { delayMs: 500 });

      // The replica no longer hears: what is published now is accepted, and not confirmed.
      replica.sigstop();
      await assert.rejects(broker.publish("orders", [message("unsure")]), {
        code: "PUBLISH_INDETERMINATE",
        details: { durability: "replicated", expected: 1, confirmed: 0 },
      });
      replica.sigcont();
      await eventually(
        async () => await broker.publish("orders", [message("unsure")]).then(() => true, () => false),
        { withinMs: 30_000 },
      );

      await primary.kill9();
      const seen: string[] = [];
      const until = performance.now() + 60_000;
      while (new Set(seen).size < 12 && performance.now() < until) {
        const some = await group.pull(20, { waitMs: 1_000 }).catch(() => []);
        seen.push(...some.map(({ id }) => id));
        await group.ack(some).catch(() => {});
      }
      const expected = [...Array.from({ length: 10 }, (_, n) => `m${n}`), "later", "unsure"];
      assert.deepEqual([...new Set(seen)].toSorted(), expected.toSorted());
      await broker.publish("orders", [message("new")], { durability: "memory" });
      const [last] = await group.pull(1, { waitMs: 10_000 });
      assert.equal(last?.id, "new");
    } finally {
      await broker[Symbol.asyncDispose]();
      await sentinel[Symbol.asyncDispose]();
      for (const server of replicas) await server.stop();
    }
  },
);

test(
  "a server that cannot promise its disk is refused before anything is sent; one that syncs always can",
  { skip: binary.skip },
  async () => {
    const server = await startRedis();
    const broker = redis({ url: server.url, prefix: "t" });
    try {
      const waits =
        (await command(server.url, "command", "info", "waitaof") as readonly unknown[])[0] !== null;
      const publishing = broker.publish("orders", [message("a")], { durability: "fsynced" });
      if (waits) {
        await publishing;
      } else {
        await assert.rejects(publishing, { code: "UNSUPPORTED" });
        assert.equal(await command(server.url, "exists", "t:{orders}:log"), 0);
      }
      await command(server.url, "config", "set", "appendfsync", "always");
      const other = redis({ url: server.url, prefix: "t", durability: "fsynced" });
      await other.publish("orders", [message("b")]);
      await other[Symbol.asyncDispose]();
      await server.kill9();
      await server.restart();
      const group = await broker.subscribe("orders", "billing");
      assert.equal((await group.pull(10, { waitMs: 5_000 })).at(-1)?.id, "b");
    } finally {
      await broker[Symbol.asyncDispose]();
      await server.stop();
    }
  },
);

test("options that say nothing are refused before any I/O", async () => {
  const nowhere = { url: "redis://127.0.0.1:1", prefix: "t" };
  for (
    const [option, options] of [
      ["durability", { durability: "forever" as "memory" }],
      ["replicas", { replicas: 0 }],
      ["retention.ageMs", { retention: { ageMs: -1 } }],
      ["retention.length", { retention: { length: 1.5 } }],
    ] as const
  ) {
    assert.throws(() => redis({ ...nowhere, ...options }), (error: { code: string; details: object }) => {
      assert.deepEqual([error.code, { ...error.details }], ["INVALID_ARGUMENT", {
        ...error.details,
        option,
      }]);
      return true;
    });
  }
  assert.throws(() => redis({ cluster: [], prefix: "t" }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => redis({ cluster: ["http://x"] }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => redis({ sentinel: { urls: ["redis://x"], name: "" } }), { code: "INVALID_ARGUMENT" });
  const broker = redis(nowhere);
  await assert.rejects(broker.publish("orders", [message("a")], { durability: "never" as "memory" }), {
    code: "INVALID_ARGUMENT",
  });
  await broker[Symbol.asyncDispose]();
});

test(
  "what all groups have settled is removed, and never what one of them has not: pending, unread, or gone itself",
  { skip },
  async () => {
    const prefix = `t${randomUUID().slice(0, 8)}`;
    const log = `${prefix}:{orders}:log`;
    const setup = redis({ url, prefix });
    const ids = Array.from({ length: 1_000 }, (_, n) => `m${n}`);
    const observed: Observation[] = [];
    try {
      const done = await setup.subscribe("orders", "done");
      const pending = await setup.subscribe("orders", "pending", { leaseMs: 60_000 });
      const unread = await setup.subscribe("orders", "unread");
      const gone = await setup.subscribe("orders", "gone");
      await setup.publish("orders", ids.map(message));
      await done.ack(await done.pull(1_000, { waitMs: 1_000 }));
      const [held, ...others] = await pending.pull(1_000, { waitMs: 1_000 });
      await pending.ack(others);
      await unread.ack(await unread.pull(500, { waitMs: 1_000 }));
      await gone.ack(await gone.pull(700, { waitMs: 1_000 }));
      await gone[Symbol.asyncDispose]();
      await command(url, "xgroup", "destroy", log, "gone");

      const trimmed = async (options: { ageMs?: number; length?: number }): Promise<number> => {
        const broker = redis({
          url,
          prefix,
          retention: options,
          observer: (event) => void observed.push(event),
        });
        try {
          await broker.publish("orders", []); // from now on it looks after the topic
          await broker.ping();
          await broker.groups(); // answered after the first round's script, on the same connection
          return 1_000 - Number(await command(url, "xlen", log));
        } finally {
          await broker[Symbol.asyncDispose]();
        }
      };
      const eventuallyTrimmed = (fits: (removed: number) => boolean): Promise<unknown> =>
        eventually(async () => fits(await trimmed({})), { withinMs: 30_000 });

      assert.equal(await trimmed({}), 0, "the first message is pending");
      await pending.deadLetter(held!, { error: "x", message: "x", at: 1 });
      assert.equal(await trimmed({ ageMs: 3_600_000 }), 0, "all are young");
      assert.equal(await trimmed({ length: 950 }), 0, "the last 950 stay, and nodes go whole");
      await eventuallyTrimmed((removed) => removed >= 400 && removed <= 500);
      const rest = await unread.pull(1_000, { waitMs: 1_000 });
      assert.deepEqual(rest.map(({ id }) => id), ids.slice(500), "what one had not read");
      await unread.ack(rest);
      await eventuallyTrimmed((removed) => removed >= 600 && removed <= 700);
      const again = await setup.subscribe("orders", "gone");
      const back = await again.pull(1_000, { waitMs: 1_000 });
      assert.deepEqual(back.map(({ id }) => id).slice(-300), ids.slice(700), "the group that was gone");
      await again.ack(back);
      await eventuallyTrimmed((removed) => removed >= 900);
      const [letter] = await setup.deadLetters.list({ topic: "orders" }, { limit: 1 });
      assert.deepEqual(
        [letter?.id, letter?.body],
        ["m0", message("m0").body],
        "the dead letter has its own bytes",
      );
      assert.deepEqual(observed.filter(({ kind }) => kind === "loop-failed"), []);
    } finally {
      await setup[Symbol.asyncDispose]();
      await removeKeys(url, prefix);
    }
  },
);

test("a group that settles nothing any more and keeps a topic from being trimmed is reported", {
  skip,
}, async () => {
  const prefix = `t${randomUUID().slice(0, 8)}`;
  const observed: Observation[] = [];
  const old = Date.now() - 120_000;
  await command(url, "xadd", `${prefix}:{orders}:log`, `${old}-0`, "a\tx\t", "{}");
  const broker = redis({
    url,
    prefix,
    retention: { ageMs: 60_000 },
    clock: { ...systemClock, after: (ms, wake) => systemClock.after(ms === 10_000 ? 200 : ms, wake) },
    observer: (observation) => void observed.push(observation),
  });
  try {
    const busy = await broker.subscribe("orders", "busy");
    await broker.subscribe("orders", "dead");
    await busy.ack(await busy.pull(1, { waitMs: 1_000 }));
    const pins = (): readonly Observation[] => observed.filter(({ kind }) => kind === "topic-pinned");
    await eventually(() => pins().length > 0, { withinMs: 30_000 });
    const [pin] = pins();
    assert.ok(
      pin?.kind === "topic-pinned" && pin.group === "dead" && pin.lateMs > 50_000,
      JSON.stringify(pin),
    );
  } finally {
    await broker[Symbol.asyncDispose]();
    await removeKeys(url, prefix);
  }
});

test("a server that may drop topics or forget is reported when it is first used", {
  skip: binary.skip,
}, async () => {
  const server = await startRedis({ args: ["--appendonly", "no", "--maxmemory-policy", "allkeys-lru"] });
  const observed: Observation[] = [];
  const broker = redis({
    url: server.url,
    prefix: "t",
    observer: (observation) => void observed.push(observation),
  });
  try {
    await broker.publish("orders", [message("a")]);
    await eventually(() => observed.length === 2, { withinMs: 30_000 });
    const details = observed.map((one) => one.kind === "server-warning" ? one.detail : one.kind);
    assert.match(details[0] ?? "", /maxmemory-policy is allkeys-lru/);
    assert.match(details[1] ?? "", /appendonly is no/);
  } finally {
    await broker[Symbol.asyncDispose]();
    await server.stop();
  }
});

function message(id: string): { id: string; type: string; body: string } {
  return { id, type: "order.placed", body: `{"id":"${id}"}` };
}
