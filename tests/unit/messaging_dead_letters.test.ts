import assert from "node:assert/strict";
import { test } from "node:test";
import { gate, Ping, Pong, until, type World, world } from "./messaging_fixture.ts";

/** An application whose handler of `ping` fails until it is repaired, with `count` dead letters. */
async function broken(count: number): Promise<World & { repair(): void; readonly handled: number[] }> {
  const made = world();
  let isBroken = true;
  const handled: number[] = [];
  made.app.on(Ping, { group: "g", concurrency: 1, retry: { attempts: 1 } }, ({ data }) => {
    if (isBroken) throw Object.assign(new Error("no"), { name: data.n % 2 === 0 ? "Even" : "Odd" });
    handled.push(data.n);
  });
  await made.app.start();
  for (let n = 0; n < count; n++) {
    await made.app.publish(Ping, { n });
    await made.clock.advance(10);
  }
  assert.equal(await made.app.deadLetters({ group: "g" }).count(), count);
  return { ...made, repair: () => isBroken = false, handled };
}

test("all dead letters that match go back, in their order, and the others stay", async () => {
  const { app, clock, repair, handled } = await broken(250);
  repair();
  const queue = app.deadLetters({ group: "g" });
  assert.deepEqual(await queue.redrive({ where: { error: "Even" } }), { done: 125, gone: 0 });
  await clock.advance(1_000);
  assert.deepEqual(handled, Array.from({ length: 125 }, (_, n) => n * 2));
  assert.deepEqual([await queue.count(), await app.deadLetters({ error: "Odd" }).count()], [125, 125]);
  await app.close();
});

test("a dry run counts and changes nothing", async () => {
  const { app } = await broken(5);
  const queue = app.deadLetters();
  assert.deepEqual(await queue.redrive({ dryRun: true, ratePerSecond: 1 }), { done: 5, gone: 0 });
  assert.deepEqual(await queue.purge({ dryRun: true }), { done: 5, gone: 0 });
  assert.equal(await queue.count(), 5);
  await app.close();
});

test("at most so many go back, and the next call goes on after them", async () => {
  const { app, clock, repair, handled } = await broken(5);
  repair();
  const queue = app.deadLetters();
  const first = await queue.redrive({ max: 2 });
  assert.deepEqual([first.done, typeof first.next], [2, "string"]);
  assert.deepEqual(await queue.redrive({ max: 10, after: first.next! }), { done: 3, gone: 0 });
  await clock.advance(100);
  assert.deepEqual(handled, [0, 1, 2, 3, 4]);
  await app.close();
});

test("what fails again while the others go back is not met a second time", async () => {
  const { app, clock } = await broken(3);
  let swept: unknown;
  void app.deadLetters().redrive({ ratePerSecond: 1 }).then((outcome) => swept = outcome);
  await until(clock, () => swept !== undefined, 500);
  assert.deepEqual(swept, { done: 3, gone: 0 });
  await clock.advance(100);
  const again = await app.deadLetters().list();
  assert.deepEqual(again.map(({ redrives }) => redrives), [1, 1, 1]);
  await app.close();
});

test("redriving keeps to the rate, and stops where the signal says, with the place to go on from", async () => {
  const { app, clock, repair, handled } = await broken(10);
  repair();
  const stop = new AbortController();
  const redriving = app.deadLetters().redrive({ ratePerSecond: 2, signal: stop.signal });
  await until(clock, () => handled.length === 1, 1);
  await clock.advance(1_600);
  assert.equal(handled.length, 4);
  stop.abort();
  const { done, next } = await redriving;
  assert.equal(done, 4);
  assert.equal((await app.deadLetters().redrive({ after: next! })).done, 6);
  await app.close();
});

test("one goes back or is removed by its id, once", async () => {
  const { app, clock, repair, handled } = await broken(2);
  repair();
  const queue = app.deadLetters();
  const [first, second] = await queue.list();
  assert.deepEqual((await queue.get(first!.deadLetterId))?.failure.error, "Even");
  assert.deepEqual(await queue.redrive(first!.deadLetterId), { done: 1, gone: 0 });
  assert.deepEqual(await queue.redrive(first!.deadLetterId), { done: 0, gone: 1 });
  assert.deepEqual(await queue.purge(second!.deadLetterId), { done: 1, gone: 0 });
  await clock.advance(100);
  assert.deepEqual([handled, await queue.count()], [[0], 0]);
  await app.close();
});

test("dead letters are removed by age", async () => {
  const { app, clock } = await broken(4);
  await clock.advance(60_000);
  await app.publish(Ping, { n: 9 });
  await clock.advance(10);
  const queue = app.deadLetters({ group: "g" });
  assert.deepEqual(await queue.purge({ olderThanMs: 59_000 }), { done: 4, gone: 0 });
  assert.deepEqual((await queue.list()).map(({ body }) => JSON.parse(body).data.n), [9]);
  await app.close();
});

test("an option out of range is refused before anything is touched", async () => {
  const { app } = await broken(1);
  const queue = app.deadLetters();
  for (const options of [{ max: 0 }, { ratePerSecond: -1 }, { olderThanMs: NaN }]) {
    await assert.rejects(queue.redrive(options), { code: "INVALID_ARGUMENT" });
  }
  await assert.rejects(queue.list({ limit: 0 }), { code: "INVALID_ARGUMENT" });
  assert.equal(await queue.count(), 1);
  assert.throws(() => world({ deadLetterAlerts: { depth: 0 } }), { code: "INVALID_ARGUMENT" });
  await app.close();
});

test("an alert comes once when a group passes a bound, again after it was below, and again if nobody heard it", async () => {
  const told: Array<[number, number]> = [];
  let deaf = true;
  const { app, clock, of } = world({
    deadLetterAlerts: {
      depth: 2,
      ageMs: 60_000,
      everyMs: 1_000,
      notify: ({ depth, oldestMs }) => {
        if (deaf) throw new Error("nobody there");
        told.push([depth, Math.floor(oldestMs / 60_000)]);
      },
    },
  });
  app.on(Ping, { group: "g", retry: { attempts: 1 } }, () => {
    throw new Error("no");
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(30_000);
  assert.equal(of("loop-failed").length, 0); // one is not too many yet
  await app.publish(Ping, { n: 2 });
  await until(clock, () => of("loop-failed").length > 0);
  deaf = false;
  await until(clock, () => told.length === 1);
  await clock.advance(20_000);
  assert.deepEqual([told, of("dead-letters").length], [[[2, 0]], 1]);
  await app.deadLetters().purge();
  await clock.advance(2_000);
  await app.publish(Ping, { n: 3 });
  await until(clock, () => told.length === 2, 5_000);
  assert.deepEqual(told[1], [1, 1]); // too old, though it is the only one
  await app.close();
});

test("a paused consumer takes nothing and hands back what waits; a resumed one goes on", async () => {
  const { app, clock, of } = world();
  const hold = gate();
  const seen: string[] = [];
  app.on(Ping, { group: "g", concurrency: 1 }, async ({ data }) => {
    seen.push(`ping ${data.n}`);
    if (data.n === 1) await hold.passed;
  });
  app.on(Pong, { group: "h" }, ({ data }) => void seen.push(`pong ${data.n}`));
  await app.start();
  for (const n of [1, 2, 3]) await app.publish(Ping, { n });
  await clock.advance(10);
  assert.deepEqual([app.pause({ group: "g" }), app.pause({ group: "nobody" })], [1, 0]);
  hold.open();
  await app.publish(Pong, { n: 1 });
  await clock.advance(30_000);
  assert.deepEqual(seen, ["ping 1", "pong 1"]);
  const [pings] = await app.groups({ topic: "ping" });
  assert.deepEqual([pings?.ready, pings?.inFlight], [2, 0]);
  assert.equal((await app.health()).ready, true);
  app.resume({ group: "g" });
  await clock.advance(10);
  assert.deepEqual(seen, ["ping 1", "pong 1", "ping 2", "ping 3"]);
  assert.deepEqual([of("paused").length, of("resumed").length], [1, 1]);
  await app.close();
});
