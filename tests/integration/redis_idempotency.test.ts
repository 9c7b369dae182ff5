import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, describe, test } from "node:test";
import * as v from "valibot";
import { event, handledOnce, isMillstreamError, millstream, runOnce } from "../../mod.ts";
import { ioredisDriver, type RedisIdempotency, redisIdempotency } from "../../src/redis/mod.ts";
import { memoryBroker, memoryStore } from "../../src/testing/mod.ts";
import { idempotencyTests } from "../../src/testing/conformance/store/idempotency.ts";
import { storeSuite } from "../../src/testing/conformance/store_world.ts";
import { startProxy } from "../support/proxy.ts";
import { service } from "../support/require.ts";
import { eventually } from "../support/wait.ts";

const redis = service("redis");
const prefix = `t${randomUUID().slice(0, 8)}`;
const opened: AsyncDisposable[] = [];
after(async () => {
  for (const one of opened.reverse()) await one[Symbol.asyncDispose]();
});

function open(url: string = redis.url, timeoutMs = 5_000): RedisIdempotency {
  const driver = ioredisDriver({ url });
  const keys = redisIdempotency({ driver, prefix, timeoutMs });
  opened.push(driver, keys);
  return keys;
}

if (redis.skip) test("redis: the conformance suite of idempotency keys", { skip: redis.skip }, () => {});
else {
  const create = () => ({ ...memoryStore(), idempotency: open() });
  idempotencyTests(
    await storeSuite({
      test,
      name: "redis",
      create: () => {
        const store = create();
        return Promise.resolve({
          store,
          secondConnection: () => Promise.resolve(create()),
          dispose: async () => await store[Symbol.asyncDispose](),
        });
      },
    }),
  );
}

describe("operations that run once, with keys in Redis", { skip: redis.skip }, () => {
  test("twenty callers on two connections: one runs, the others are told its result when it is there", async () => {
    const keys = [open(), open()];
    let runs = 0;
    let end = (): void => {};
    const ended = new Promise<void>((resolve) => end = resolve);
    const options = { key: randomUUID(), fingerprint: "f", waitMs: 60_000 };
    const calls = Array.from({ length: 20 }, (_, n) =>
      runOnce(keys[n % 2]!, options, async () => {
        runs++;
        await ended;
        return '"done"';
      }));
    await eventually(() => runs === 1);
    end();
    const results = await Promise.all(calls);
    assert.equal(runs, 1);
    assert.deepEqual(new Set(results.map(({ result }) => result)), new Set(['"done"']));
    assert.equal(results.filter(({ replayed }) => !replayed).length, 1);
  });

  test("a result that came between the look and the wait is not waited for", async () => {
    // Interleaving: begin says running; the other completes; only then the wait begins.
    const [one, two] = [open(), open()];
    const key = randomUUID();
    const begun = await one.begin(key, "f", 60_000);
    assert.equal(begun.state, "started");
    assert.deepEqual(await two.begin(key, "f", 60_000), { state: "running" });
    await one.complete(key, begun.state === "started" ? begun.epoch : 0, "1", 60_000);
    const started = performance.now();
    await two.changed(key, { waitMs: 60_000 });
    assert.ok(performance.now() - started < 30_000, "it waited for the whole time");
  });

  test("the confirmation of a result is lost: it is kept all the same, once", async () => {
    await using proxy = await startProxy(Number(new URL(redis.url).port));
    const through = open(redis.url.replace(/\/\/.*/, `//127.0.0.1:${proxy.port}`), 1_000);
    const key = randomUUID();
    const begun = await through.begin(key, "f", 60_000);
    assert.ok(begun.state === "started");
    await proxy.set("dropReplies");
    const completing = through.complete(key, begun.epoch, "1", 60_000);
    completing.catch(() => {});
    const direct = open();
    await eventually(async () => (await direct.begin(key, "f", 60_000)).state === "done");
    await proxy.set("pass");
    await completing.catch((failure) => assert.ok(isMillstreamError(failure, "UNAVAILABLE")));
    assert.deepEqual(await direct.begin(key, "f", 60_000), { state: "done", result: "1" });
  });

  test("a deduplicating consumer handles a message once, however often it comes, and refuses another under its id", async () => {
    const Paid = event("paid", v.object({ amount: v.number() }));
    const handled: number[] = [];
    const failures: string[] = [];
    const keys = open();
    const source = `/${randomUUID()}`;
    for (const amount of [1, 1, 2]) {
      // A broker and a store that remember nothing: only the keys can tell.
      await using app = millstream({
        broker: memoryBroker(),
        source,
        observer: (seen) => {
          if (seen.kind === "dead-lettered" && isMillstreamError(seen.error)) failures.push(seen.error.code);
        },
      });
      let done = 0;
      const handler = handledOnce(
        keys,
        ({ data }: { data: { amount: number } }) => void handled.push(data.amount),
      );
      app.on(
        Paid,
        { group: "g", retry: { attempts: 1 } },
        (message, context) => handler(message, context).finally(() => done++),
      );
      await app.start();
      await app.publish(Paid, { amount }, { id: "m-1" });
      await eventually(() => done === 1);
      await app.close();
    }
    assert.deepEqual([handled, failures], [[1], ["IDEMPOTENCY_KEY_REUSED"]]);
  });
});
