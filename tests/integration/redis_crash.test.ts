import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import type { Observation } from "../../src/core/observer.ts";
import { redis } from "../../src/redis/mod.ts";
import { startScript } from "../support/process.ts";
import { service } from "../support/require.ts";
import { removeKeys } from "./support/redis_admin.ts";

const { url, skip } = service("redis");
const CONSUMER = new URL("./support/redis_consumer.ts", import.meta.url);

test(
  "a message whose consumer process is killed in mid-handler is handled by another within seconds",
  { skip },
  async () => {
    const prefix = newPrefix();
    const broker = redis({ url, prefix });
    try {
      const other = await broker.subscribe("orders", "billing");
      await broker.publish("orders", [{ id: "m1", type: "order.placed", body: "{}" }]);
      const process = startScript(CONSUMER, { args: [url, prefix, "orders", "billing", "700"] });
      assert.equal(await process.line("took"), "took m1 1");
      const waiting = other.pull(10, { waitMs: 8_000 });
      const killed = performance.now();
      await process.kill9();
      const [delivery, ...more] = await waiting;
      assert.ok(performance.now() - killed < 4_000, "it took longer than the lease and a moment");
      assert.equal(more.length, 0);
      assert.deepEqual([delivery?.id, delivery?.attempt, delivery?.redelivered], ["m1", 1, true]);
      assert.deepEqual(await other.ack([delivery!]), []);
      assert.deepEqual(await other.lag(), { ready: 0, inFlight: 0, delayed: 0, dead: 0 });
    } finally {
      await broker[Symbol.asyncDispose]();
      await removeKeys(url, prefix);
    }
  },
);

test(
  "a consumer process frozen for longer than its lease: another takes over, and the late ack is refused",
  { skip },
  async () => {
    const prefix = newPrefix();
    const observed: Observation[] = [];
    const broker = redis({ url, prefix, observer: (observation) => observed.push(observation) });
    const process = startScript(CONSUMER, { args: [url, prefix, "orders", "billing", "500"] });
    try {
      await broker.publish("orders", [{ id: "m1", type: "order.placed", body: "{}" }]);
      assert.equal(await process.line("took"), "took m1 1");
      process.sigstop();
      const other = await broker.subscribe("orders", "billing");
      const owned = await other.pull(10, { waitMs: 8_000 });
      assert.deepEqual(owned.map(({ id }) => id), ["m1"]);
      process.sigcont();
      process.send("ack");
      assert.equal(await process.line("lost"), "lost 1");
      assert.deepEqual(await other.extend(owned), [], "the new owner keeps its lease");
      assert.deepEqual(await other.ack(owned), [], "the new owner's ack counts");
      assert.deepEqual(observed, []);
    } finally {
      await process.kill9();
      await broker[Symbol.asyncDispose]();
      await removeKeys(url, prefix);
    }
  },
);

test("an ack in time is accepted, from a process that then dies: nothing comes again", { skip }, async () => {
  const prefix = newPrefix();
  const broker = redis({ url, prefix });
  const process = startScript(CONSUMER, { args: [url, prefix, "orders", "billing", "500"] });
  try {
    await broker.publish("orders", [{ id: "m1", type: "order.placed", body: "{}" }]);
    assert.equal(await process.line("took"), "took m1 1");
    process.send("ack");
    assert.equal(await process.line("lost"), "lost 0");
    await process.kill9();
    const other = await broker.subscribe("orders", "billing");
    assert.deepEqual(await other.pull(10, { waitMs: 800 }), []);
  } finally {
    await process.kill9();
    await broker[Symbol.asyncDispose]();
    await removeKeys(url, prefix);
  }
});

function newPrefix(): string {
  return `t${randomUUID().slice(0, 8)}`;
}
