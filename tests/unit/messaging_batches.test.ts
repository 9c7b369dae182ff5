import assert from "node:assert/strict";
import { test } from "node:test";
import { gate, Keyed, Ping, Pong, until, world } from "./messaging_fixture.ts";

test("messages come in batches of at most the size, the last one when the time to wait is over", async () => {
  const { app, clock, of } = world();
  const sizes: Array<[size: number, at: number]> = [];
  app.onBatch(Ping, { group: "g", size: 10, waitMs: 50 }, (messages) => {
    sizes.push([messages.length, clock.monotonic()]);
  });
  for (let n = 0; n < 25; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => of("handled").length === 25, 10);
  assert.deepEqual(sizes.map(([size]) => size), [10, 10, 5]);
  assert.ok(sizes[2]![1] - sizes[1]![1] >= 50, "the last one did not wait for others");
  await app.close();
});

test("those that a batch names have failed and are tried again alone, the others are done", async () => {
  const { app, clock, of } = world();
  const tries: number[][] = [];
  app.onBatch(Ping, { group: "g", size: 5, retry: { attempts: 3, baseMs: 10 } }, (messages, batch) => {
    tries.push(messages.map(({ data }) => data.n));
    for (const message of messages) {
      if (message.data.n === 1 && batch.of(message).attempt === 1) batch.fail(message, new Error("once"));
      if (message.data.n === 3) batch.fail(message, new TypeError("always"));
    }
  });
  for (let n = 0; n < 5; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => of("handled").length === 4 && of("dead-lettered").length === 1);
  assert.deepEqual(tries[0], [0, 1, 2, 3, 4]);
  const again = tries.slice(1).flat().sort();
  assert.deepEqual(again, [1, 3, 3]);
  const [letter] = await app.deadLetters().list();
  assert.deepEqual([letter?.failure.error, letter?.attempts], ["TypeError", 3]);
  await app.close();
});

test("a batch that throws has failed as a whole, but for none of its neighbours in another batch", async () => {
  const { app, clock, of } = world();
  app.onBatch(Ping, { group: "g", size: 3, concurrency: 2, retry: { attempts: 1 } }, (messages) => {
    if (messages.some(({ data }) => data.n === 1)) throw new Error("no");
  });
  for (let n = 0; n < 6; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => of("handled").length + of("dead-lettered").length === 6);
  assert.deepEqual([of("handled").length, of("dead-lettered").length], [3, 3]);
  await app.close();
});

test("the effects of each message commit with it, and not those of one that failed", async () => {
  const { app, clock, of } = world();
  const pongs: number[] = [];
  app.onBatch(Ping, { group: "g", size: 3, retry: { attempts: 1 } }, async (messages, batch) => {
    for (const message of messages) {
      await batch.of(message).publish(Pong, { n: message.data.n });
      if (message.data.n === 1) batch.fail(message, new Error("no"));
    }
  });
  app.on(Pong, { group: "h" }, ({ data }) => void pongs.push(data.n));
  for (let n = 0; n < 3; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => pongs.length === 2 && of("dead-lettered").length === 1);
  assert.deepEqual(pongs.sort(), [0, 2]);
  await app.close();
});

test("no more batches run at once than are allowed, and a key has one message in a batch", async () => {
  const { app, clock, of } = world();
  let running = 0;
  let most = 0;
  const repeated: string[] = [];
  app.onBatch(Keyed, { group: "g", size: 4, waitMs: 5, concurrency: 2 }, async (messages) => {
    most = Math.max(most, ++running);
    const keys = messages.map(({ key }) => key!);
    if (new Set(keys).size < keys.length) repeated.push(keys.join());
    await new Promise<void>((resolve) => clock.after(20, resolve));
    running--;
  });
  for (let n = 0; n < 40; n++) await app.publish(Keyed, { n, key: `k${n % 10}` });
  await app.start();
  await until(clock, () => of("handled").length === 40);
  assert.deepEqual([most, repeated], [2, []]);
  await app.close();
});

test("closing waits for the batch that runs", async () => {
  const { app, clock, of } = world();
  const hold = gate();
  let began = false;
  app.onBatch(Ping, { group: "g", size: 2 }, async () => {
    began = true;
    await hold.passed;
  });
  for (let n = 0; n < 2; n++) await app.publish(Ping, { n });
  await app.start();
  await until(clock, () => began, 5);
  const closed = app.close();
  await clock.advance(100);
  hold.open();
  await closed;
  assert.equal(of("handled").length, 2);
});

test("a size, a time or a number of batches out of range is refused", () => {
  for (const options of [{ size: 0 }, { size: 1.5 }, { waitMs: -1 }, { concurrency: 0 }]) {
    assert.throws(() => world().app.onBatch(Ping, { group: "g", ...options }, () => {}), {
      code: "INVALID_ARGUMENT",
    });
  }
});
