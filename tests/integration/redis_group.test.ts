/** What is particular to groups on Redis: two streams behind one pull, fencing by owner and count, bounded deduplication. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import type { Broker, Delivery } from "../../src/ports/broker.ts";
import { redis } from "../../src/redis/mod.ts";
import { service } from "../support/require.ts";
import { eventually } from "../support/wait.ts";
import { command, removeKeys } from "./support/redis_admin.ts";

const { url, skip } = service("redis");
const FAILURE = { error: "Timeout", message: "too slow", at: 1_700_000_000_000 };

test(
  "the same consumer gets a message again after its lease: only the second delivery can be settled",
  { skip },
  async () => {
    await withBroker(async (broker) => {
      const subscription = await broker.subscribe("orders", "billing", { leaseMs: 300 });
      await broker.publish("orders", [message("a")]);
      const [first] = await subscription.pull(1, { waitMs: 1_000 });
      const [second] = await subscription.pull(1, { waitMs: 5_000 });
      assert.ok(first && second);
      assert.deepEqual([second.id, second.redelivered], ["a", true]);
      assert.deepEqual(await subscription.ack([first]), [first]);
      assert.equal(await subscription.retry(first, 0, FAILURE), false);
      assert.deepEqual(await subscription.extend([first]), [first]);
      assert.deepEqual(await subscription.ack([second]), []);
    });
  },
);

test(
  "an entry that another tool gave to someone else is not settled, though its delivery count is the same",
  { skip },
  async () => {
    await withBroker(async (broker, prefix) => {
      const subscription = await broker.subscribe("orders", "billing");
      await broker.publish("orders", [message("a")]);
      const [delivery] = await subscription.pull(1, { waitMs: 1_000 });
      assert.ok(delivery);
      const entryId = delivery.token.split(":")[1] ?? "";
      await command(
        url,
        "xclaim",
        `${prefix}:{orders}:log`,
        "billing",
        "someone",
        0,
        entryId,
        "JUSTID",
      );
      assert.equal(await subscription.retry(delivery, 0, FAILURE), false);
      assert.equal(await subscription.deadLetter(delivery, FAILURE), false);
      await subscription.release([delivery]);
      assert.deepEqual((await subscription.lag()).inFlight, 1);
    });
  },
);

test(
  "a pull of one that meets a retry and a new message takes one, and the other is at hand at once",
  { skip },
  async () => {
    await withBroker(async (broker) => {
      const one = await broker.subscribe("orders", "billing");
      const two = await broker.subscribe("orders", "billing");
      await broker.publish("orders", [message("a")]);
      await one.release(await one.pull(1, { waitMs: 1_000 }));
      await broker.publish("orders", [message("b")]);
      const start = performance.now();
      const first = await one.pull(1, { waitMs: 1_000 });
      const second = await two.pull(1, { waitMs: 5_000 });
      assert.ok(performance.now() - start < 3_000, "it waited for a lease");
      assert.deepEqual([first.length, second.length], [1, 1]);
      assert.deepEqual(idsOf([...first, ...second]).sort(), ["a", "b"]);
      assert.deepEqual([first[0]?.attempt, second[0]?.attempt], [1, 1]);
    });
  },
);

test(
  "retries and new messages take turns, so that neither waits for the other to end",
  { skip },
  async () => {
    await withBroker(async (broker) => {
      const subscription = await broker.subscribe("orders", "billing");
      await broker.publish(
        "orders",
        Array.from({ length: 40 }, (_, n) => message(`again${n}`)),
      );
      await subscription.release(await subscription.pull(40, { waitMs: 1_000 }));
      await broker.publish(
        "orders",
        Array.from({ length: 40 }, (_, n) => message(`new${n}`)),
      );
      for (const max of [1, 10]) {
        const seen: Delivery[] = [];
        while (seen.length < 20) {
          const some = await subscription.pull(max, { waitMs: 1_000 });
          assert.ok(some.length >= 1 && some.length <= max);
          seen.push(...some);
          await subscription.ack(some);
        }
        const fresh = seen.filter(({ id }) => id.startsWith("new")).length;
        assert.ok(
          fresh >= 4 && fresh <= 16,
          `${fresh} of ${seen.length} were new`,
        );
      }
    });
  },
);

test(
  "what arrives after its pull was aborted goes to another consumer, not into a lease",
  { skip },
  async () => {
    await withBroker(async (broker, topic) => {
      const leaves = await broker.subscribe(topic, "billing");
      const stays = await broker.subscribe(topic, "billing");
      const controller = new AbortController();
      const aborted = assert.rejects(
        leaves.pull(1, { waitMs: 20_000, signal: controller.signal }),
        { code: "ABORTED" },
      );
      await blockedReader(topic);
      controller.abort();
      await aborted;
      await broker.publish(topic, [message("a")]); // goes to the reader that still blocks on the server
      const start = performance.now();
      assert.deepEqual(idsOf(await stays.pull(1, { waitMs: 10_000 })), ["a"]);
      assert.ok(performance.now() - start < 3_000);
    });
  },
);

test("a retry after a delay wakes a reader that waits, in time", { skip }, async () => {
  await withBroker(async (broker) => {
    const one = await broker.subscribe("orders", "billing");
    const two = await broker.subscribe("orders", "billing");
    await broker.publish("orders", [message("a")]);
    const [delivery] = await one.pull(1, { waitMs: 1_000 });
    const waiting = two.pull(1, { waitMs: 10_000 });
    const start = performance.now();
    assert.equal(await one.retry(delivery!, 300, FAILURE), true);
    const [again] = await waiting;
    const waited = performance.now() - start;
    assert.equal(again?.attempt, 2);
    assert.ok(waited >= 295 && waited < 1_000, `it came after ${waited} ms`);
  });
});

test(
  "an id is known in both sets of ids, and a full set is set aside instead of growing",
  { skip },
  async () => {
    await withBroker(async (broker, prefix) => {
      const [log, ids, older] = [
        `${prefix}:{orders}:log`,
        `${prefix}:{orders}:ids`,
        `${prefix}:{orders}:ids:older`,
      ];
      await broker.publish("orders", [message("a")]);
      assert.ok(Number(await command(url, "pttl", ids)) > 3_600_000);
      await command(url, "rename", ids, older);
      await broker.publish("orders", [message("a"), message("b")]);
      assert.equal(await command(url, "xlen", log), 2);
      const fill = "for i = 1, 262200 do redis.call('SADD', KEYS[1], 'x' .. i) end return 1";
      await command(url, "eval", fill, 1, ids);
      await broker.publish("orders", [message("c")]);
      assert.equal(await command(url, "scard", ids), 1);
      assert.equal(await command(url, "scard", older), 262_202);
      await broker.publish("orders", [message("b"), message("c"), message("d"), message("d")]);
      assert.equal(await command(url, "xlen", log), 4);
      await command(url, "del", older);
      await broker.publish("orders", [message("a"), message("c")]);
      assert.equal(await command(url, "xlen", log), 5, "what was in neither set is new");
    });
  },
);

test("an id published with a delay is a duplicate before and after it is due", {
  skip,
}, async () => {
  await withBroker(async (broker) => {
    const subscription = await broker.subscribe("orders", "billing");
    await broker.publish("orders", [message("a"), message("a")], { delayMs: 100 });
    await broker.publish("orders", [message("a")], { delayMs: 50 });
    await broker.publish("orders", [message("a")]);
    const deliveries = await subscription.pull(10, { waitMs: 3_000 });
    assert.deepEqual(idsOf(deliveries), ["a"]);
    await broker.publish("orders", [message("a")]);
    assert.deepEqual(await subscription.pull(10, { waitMs: 200 }), []);
  });
});

test("without a window every publish counts, and the features say so", { skip }, async () => {
  await withBroker(async (broker) => {
    assert.equal(broker.features.deduplicates, false);
    assert.ok(broker.features.reasons.deduplicates);
    const subscription = await broker.subscribe("orders", "billing");
    await broker.publish("orders", [message("a"), message("a")]);
    await broker.publish("orders", [message("a")]);
    assert.deepEqual(idsOf(await subscription.pull(10, { waitMs: 1_000 })), ["a", "a", "a"]);
  }, { dedupWindowMs: 0 });
});

test("messages of one delayed call come in their order, a thousand of them, too", { skip }, async () => {
  await withBroker(async (broker) => {
    const subscription = await broker.subscribe("orders", "billing");
    const messages = Array.from(
      { length: 1_000 },
      (_, n) => message(`m${1_000 - n}`),
    );
    await broker.publish("orders", messages, { delayMs: 100 });
    const received: string[] = [];
    while (received.length < 1_000) {
      const some = await subscription.pull(300, { waitMs: 3_000 });
      assert.ok(some.length > 0);
      received.push(...idsOf(some));
      await subscription.ack(some);
    }
    assert.deepEqual(received, idsOf(messages));
  });
});

async function withBroker(
  run: (broker: Broker, prefix: string) => Promise<void>,
  options: { readonly dedupWindowMs?: number } = {},
): Promise<void> {
  const prefix = `t${randomUUID().slice(0, 8)}`;
  const broker = redis({ url, prefix, ...options });
  try {
    await run(broker, prefix);
  } finally {
    await broker[Symbol.asyncDispose]();
    await removeKeys(url, prefix);
  }
}

/** Waits until a reader of the topic blocks on the server. */
async function blockedReader(topic: string): Promise<void> {
  const blocked = new RegExp(`name=millstream:reader:${topic}:\\S+ .*flags=b `);
  await eventually(async () => blocked.test(String(await command(url, "client", "list"))));
}

function idsOf(messages: readonly { readonly id: string }[]): string[] {
  return messages.map(({ id }) => id);
}

function message(id: string): { id: string; type: string; body: string } {
  return { id, type: "order.placed", body: `{"id":"${id}"}` };
}
