/** What the broker does when the server loses, refuses or forgets something. On a private server. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { Observation, Observer } from "../../src/core/observer.ts";
import { redis } from "../../src/redis/mod.ts";
import type { Broker, Subscription } from "../../src/ports/broker.ts";
import { service } from "../support/require.ts";
import { type PrivateServer, startRedis } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { command } from "./support/redis_admin.ts";

const { skip } = service("redis-server");
const server: PrivateServer | undefined = skip ? undefined : await startRedis();
after(() => server?.stop());
const url = server?.url ?? "";

test(
  "FLUSHALL while a pull waits: what is published after it is handled, and the loss is reported once",
  { skip },
  async () => {
    const { observed, observer } = recorder();
    await using(redis({ url, prefix: "flush", observer }), async (broker) => {
      const subscription = await broker.subscribe("orders", "billing", { from: "now" });
      await broker.publish("orders", [message("before")]);
      await ackAll(subscription, ["before"]);
      const waiting = subscription.pull(10, { waitMs: 8_000 });
      await eventually(async () => String(await command(url, "client", "list")).includes("cmd=xreadgroup"));
      await command(url, "flushall");
      await broker.publish("orders", [message("after")]);
      const deliveries = await waiting;
      assert.deepEqual(deliveries.map(({ id }) => id), ["after"]);
      assert.deepEqual(await subscription.ack(deliveries), []);
      await broker.publish("orders", [message("later")]);
      await ackAll(subscription, ["later"]);
      assert.deepEqual(lossesIn(observed), ["orders/billing"]);
    });
  },
);

test(
  "FLUSHALL and a publish between two pulls of a group that began at the end: nothing is skipped",
  { skip },
  async () => {
    const { observed, observer } = recorder();
    await using(redis({ url, prefix: "flush2", observer }), async (broker) => {
      const subscription = await broker.subscribe("orders", "billing", { from: "now" });
      assert.deepEqual(await subscription.pull(10, { waitMs: 0 }), []);
      await command(url, "flushall");
      await broker.publish("orders", [message("a"), message("b")]);
      await ackAll(subscription, ["a", "b"]);
      assert.deepEqual(lossesIn(observed), ["orders/billing"]);
      assert.equal((await broker.deadLetters.list({}, { limit: 1 })).length, 0);
    });
  },
);

test(
  "a dead letter is found by listing all topics, also after FLUSHALL took the list of topics",
  { skip },
  async () => {
    await using(redis({ url, prefix: "flush3" }), async (broker) => {
      const subscription = await broker.subscribe("orders", "billing");
      await command(url, "flushall");
      await broker.publish("orders", [message("bad")]);
      const [delivery] = await subscription.pull(1, { waitMs: 5_000 });
      assert.ok(delivery);
      assert.equal(
        await subscription.deadLetter(delivery, { error: "TypeError", message: "x", at: 1 }),
        true,
      );
      assert.deepEqual((await broker.deadLetters.list({}, { limit: 10 })).map(({ id }) => id), ["bad"]);
    });
  },
);

test(
  "a group that was destroyed goes on at its low-water mark: nothing lost, nothing settled comes again",
  { skip },
  async () => {
    const { observed, observer } = recorder();
    await using(redis({ url, prefix: "destroy", observer }), async (broker) => {
      const first = await broker.subscribe("orders", "billing");
      await broker.publish("orders", ["a", "b"].map(message));
      await ackAll(first, ["a", "b"]);
      await first[Symbol.asyncDispose]();
      await broker.publish("orders", ["c", "d"].map(message));
      assert.equal(await command(url, "xgroup", "destroy", "destroy:{orders}:log", "billing"), 1);
      const second = await broker.subscribe("orders", "billing", { from: "now" });
      await ackAll(second, ["c", "d"]);
      assert.deepEqual(lossesIn(observed), ["orders/billing"]);
    });
  },
);

test(
  "an entry deleted while it was out is reported as lost, and does not hold up the others",
  { skip },
  async () => {
    const { observed, observer } = recorder();
    await using(redis({ url, prefix: "xdel", observer }), async (broker) => {
      const gone = await broker.subscribe("orders", "billing", { leaseMs: 300 });
      const subscription = await broker.subscribe("orders", "billing");
      await broker.publish("orders", ["a", "b"].map(message));
      const [first] = await gone.pull(2, { waitMs: 1_000 });
      assert.ok(first);
      await command(url, "xdel", "xdel:{orders}:log", first.token.split(":")[1] ?? "");
      await ackAll(subscription, ["b"]);
      assert.deepEqual(lossesIn(observed), ["orders/billing"]);
      assert.equal((await subscription.lag()).inFlight, 0);
    });
  },
);

test("SCRIPT FLUSH at any time is not noticed", { skip }, async () => {
  await using(redis({ url, prefix: "script" }), async (broker) => {
    const subscription = await broker.subscribe("orders", "billing");
    const ids = Array.from({ length: 50 }, (_, index) => `m${index}`);
    for (const id of ids) {
      const publishing = broker.publish("orders", [message(id)]);
      await command(url, "script", "flush");
      await publishing;
    }
    const deliveries = await subscription.pull(100, { waitMs: 1_000 });
    assert.deepEqual(deliveries.map(({ id }) => id), ids, "each once, in order");
    await command(url, "script", "flush");
    assert.deepEqual(await subscription.extend(deliveries), []);
    await command(url, "script", "flush");
    assert.deepEqual(await subscription.ack(deliveries), []);
    assert.equal((await subscription.lag()).inFlight, 0);
  });
});

test(
  "a server without memory to spare refuses to publish for now, and consumers drain it all the same",
  { skip },
  async () => {
    await using(redis({ url, prefix: "oom" }), async (broker) => {
      const before = await broker.subscribe("orders", "billing");
      await broker.publish("orders", ["a", "b", "c"].map(message));
      await broker.publish("orders", [message("delayed")], { delayMs: 50 });
      await command(url, "config", "set", "maxmemory", 1);
      try {
        const refused = { code: "OVERLOADED", retryable: true };
        await assert.rejects(broker.publish("orders", [message("d")]), refused);
        await assert.rejects(broker.publish("orders", [message("d")], { delayMs: 50 }), refused);
        const [one] = await before.pull(1, { waitMs: 1_000 });
        assert.deepEqual(await before.ack([one!]), []);
        await using(redis({ url, prefix: "oom" }), async (other) => {
          await ackAll(await other.subscribe("orders", "billing"), ["b", "c"]);
        });
        assert.deepEqual(await before.pull(1, { waitMs: 200 }), [], "what cannot be moved waits");
      } finally {
        await command(url, "config", "set", "maxmemory", 0);
      }
      await broker.publish("orders", [message("d")]);
      await ackAll(before, ["d", "delayed"]);
    });
  },
);

test(
  "a key of another type is refused, and the refused id is not taken for a duplicate afterwards",
  { skip },
  async () => {
    await using(redis({ url, prefix: "type" }), async (broker) => {
      await command(url, "set", "type:{orders}:log", "mine");
      await assert.rejects(broker.publish("orders", [message("a")]), { code: "REJECTED", retryable: false });
      await command(url, "del", "type:{orders}:log");
      await broker.publish("orders", [message("a")]);
      await ackAll(await broker.subscribe("orders", "billing"), ["a"]);
    });
  },
);

test(
  "entries that something else wrote are handed out, and dead letters keep their bytes",
  { skip },
  async () => {
    await using(redis({ url, prefix: "foreign" }), async (broker) => {
      const subscription = await broker.subscribe("orders", "billing");
      const event =
        '{"specversion":"1.0","id":"f1","source":"x","type":"order.placed","partitionkey":"k","data":1}';
      await command(url, "xadd", "foreign:{orders}:log", "*", "event", event);
      await command(url, "xadd", "foreign:{orders}:log", "*", "a", "1", "b", "not json");
      const [one, two] = await subscription.pull(10, { waitMs: 1_000 });
      assert.deepEqual([one?.id, one?.type, one?.key, one?.body], ["f1", "order.placed", "k", event]);
      assert.deepEqual([two?.type, two?.body], ["unknown", "not json"]);
      assert.equal(await subscription.retry(one!, 0, { error: "E", message: "", at: 1 }), true);
      assert.equal(await subscription.deadLetter(two!, { error: "E", message: "", at: 1 }), true);
      const [again] = await subscription.pull(10, { waitMs: 1_000 });
      assert.deepEqual([again?.id, again?.attempt, again?.body], ["f1", 2, event]);
      const [letter] = await broker.deadLetters.list({ topic: "orders" }, { limit: 1 });
      assert.equal(letter?.body, "not json");
    });
  },
);

test(
  "consumers that left or died hold no place in the group; one that holds entries keeps it",
  { skip },
  async () => {
    await using(redis({ url, prefix: "names" }), async (broker) => {
      const stays = await broker.subscribe("orders", "billing");
      const leaves = await broker.subscribe("orders", "billing");
      await broker.publish("orders", ["a", "b"].map(message));
      assert.equal((await leaves.pull(1, { waitMs: 1_000 })).length, 1);
      assert.equal((await stays.pull(1, { waitMs: 1_000 })).length, 1);
      await leaves[Symbol.asyncDispose]();
      const consumers = await command(url, "xinfo", "consumers", "names:{orders}:log", "billing");
      assert.equal((consumers as readonly unknown[]).length, 1);
      assert.equal((await stays.lag()).inFlight, 1);
    });
  },
);

test(
  "a consumer that leaves while the server has no memory to spare leaves its messages to their lease",
  { skip },
  async () => {
    await using(redis({ url, prefix: "leave" }), async (broker) => {
      const leaves = await broker.subscribe("orders", "billing", { leaseMs: 400 });
      const stays = await broker.subscribe("orders", "billing");
      await broker.publish("orders", [message("a")]);
      assert.equal((await leaves.pull(1, { waitMs: 1_000 })).length, 1);
      await command(url, "config", "set", "maxmemory", 1);
      try {
        await leaves[Symbol.asyncDispose]();
      } finally {
        await command(url, "config", "set", "maxmemory", 0);
      }
      await ackAll(stays, ["a"]);
    });
  },
);

function message(id: string): { id: string; type: string; body: string } {
  return { id, type: "order.placed", body: `{"id":"${id}"}` };
}

function recorder(): { observed: Observation[]; observer: Observer } {
  const observed: Observation[] = [];
  return { observed, observer: (observation) => observed.push(observation) };
}

function lossesIn(observed: readonly Observation[]): readonly string[] {
  return observed.flatMap((observation) =>
    observation.kind === "data-loss-suspected" ? [observation.what] : []
  );
}

/** Takes and acknowledges until exactly these have come, in any order. */
async function ackAll(
  subscription: Subscription,
  ids: readonly string[],
): Promise<void> {
  const received: string[] = [];
  const deadline = performance.now() + 8_000;
  while (received.length < ids.length && performance.now() < deadline) {
    const deliveries = await subscription.pull(10, { waitMs: 500 });
    received.push(...deliveries.map(({ id }) => id));
    assert.deepEqual(await subscription.ack(deliveries), []);
  }
  assert.deepEqual(received.sort(), [...ids].sort());
}

async function using(
  broker: Broker,
  run: (broker: Broker) => Promise<void>,
): Promise<void> {
  try {
    await run(broker);
  } finally {
    await broker[Symbol.asyncDispose]();
  }
}
