import assert from "node:assert/strict";
import { test } from "node:test";
import { memoryStore } from "../../src/memory/store.ts";
import { virtualClock } from "../../src/testing/mod.ts";
import { Ping, until, world } from "./messaging_fixture.ts";

const START = Date.UTC(2026, 0, 1);
const MINUTE = 60_000;

test("what is scheduled every so often is published at each of these moments, once, though three processes run", async () => {
  const clock = virtualClock(START + 1_000);
  const store = memoryStore({ clock });
  const broker = store.broker();
  const seen: Array<[number, string]> = [];
  const ids = new Set<string>();
  const processes = [1, 2, 3].map(() => {
    const { app } = world({ store, broker: () => broker }, clock);
    app.schedule("minutely", { everyMs: MINUTE }, Ping, (time) => ({ n: time.getTime() }));
    return app;
  });
  processes[0]!.on(Ping, { group: "g" }, ({ id, data, time }) => {
    ids.add(id);
    seen.push([data.n, time]);
  });
  for (const app of processes) await app.start();
  await until(clock, () => seen.length >= 5, 5_000);
  const expected = [1, 2, 3, 4, 5].map((n) => START + n * MINUTE);
  assert.deepEqual(seen, expected.map((time) => [time, new Date(time).toISOString()]));
  assert.equal(ids.size, 5);
  for (const app of processes.reverse()) await app.close();
});

test("of the times that passed while nothing ran the latest is made up for, and those before the schedule was known are not", async () => {
  const clock = virtualClock(START + 1_000);
  const store = memoryStore({ clock });
  const broker = store.broker();
  const seen: number[] = [];
  const boot = async (kept: boolean) => {
    const { app } = world({
      store: {
        ...store,
        [Symbol.asyncDispose]: () => kept ? Promise.resolve() : store[Symbol.asyncDispose](),
      },
      broker: () => ({ ...broker, [Symbol.asyncDispose]: () => Promise.resolve() }),
    }, clock);
    app.schedule("minutely", { everyMs: MINUTE }, Ping, (time) => ({ n: (time.getTime() - START) / MINUTE }));
    app.on(Ping, { group: "g" }, ({ data }) => void seen.push(data.n));
    await app.start();
    return app;
  };
  const first = await boot(true);
  await until(clock, () => seen.length === 1, 5_000);
  await first.close();
  await clock.advance(10 * MINUTE);
  const second = await boot(false);
  await until(clock, () => seen.length >= 3, 5_000);
  assert.equal(seen[0], 1);
  assert.ok(seen[1]! >= 11, `made up for: ${seen}`);
  assert.equal(seen[2], seen[1]! + 1);
  await second.close();
});

test("a single time is published once, also if it has passed when the application starts", async () => {
  const clock = virtualClock(START);
  const { app } = world({}, clock);
  const seen: number[] = [];
  app.schedule("past", { at: new Date(START - MINUTE) }, Ping, { n: 1 });
  app.schedule("future", { at: new Date(START + 5 * MINUTE) }, Ping, { n: 2 });
  app.on(Ping, { group: "g" }, ({ data }) => void seen.push(data.n));
  await app.start();
  await until(clock, () => seen.length === 1, 1_000);
  assert.deepEqual(seen, [1]);
  await until(clock, () => seen.length === 2, 10_000);
  assert.ok(clock.now() >= START + 5 * MINUTE);
  await clock.advance(6 * MINUTE);
  assert.deepEqual(seen, [1, 2]);
  await app.close();
});

test("a function says the times, as a cron library does, and ends them", async () => {
  const clock = virtualClock(START);
  const { app } = world({}, clock);
  const times = [START + MINUTE, START + 3 * MINUTE, START + 4 * MINUTE];
  const seen: number[] = [];
  app.schedule(
    "odd",
    {
      next: (after) => {
        const time = times.find((one) => one > after.getTime());
        return time === undefined ? undefined : new Date(time);
      },
    },
    Ping,
    (time) => ({ n: (time.getTime() - START) / MINUTE }),
  );
  app.on(Ping, { group: "g" }, ({ data }) => void seen.push(data.n));
  await app.start();
  await until(clock, () => seen.length === 3, 5_000);
  await clock.advance(6 * MINUTE);
  assert.deepEqual(seen, [1, 3, 4]);
  await app.close();
});

test("a schedule that says nothing, or two things, or is there twice is refused", () => {
  const { app } = world();
  app.schedule("a", { everyMs: 1_000 }, Ping, { n: 1 });
  const refused: Array<() => unknown> = [
    () => app.schedule("b", {}, Ping, { n: 1 }),
    () => app.schedule("b", { everyMs: 1_000, at: new Date() }, Ping, { n: 1 }),
    () => app.schedule("b", { everyMs: 1 }, Ping, { n: 1 }),
    () => app.schedule("b", { at: new Date(NaN) }, Ping, { n: 1 }),
    () => app.schedule("b c", { everyMs: 1_000 }, Ping, { n: 1 }),
  ];
  for (const add of refused) assert.throws(add, { code: "INVALID_ARGUMENT" });
  assert.throws(() => app.schedule("a", { everyMs: 1_000 }, Ping, { n: 1 }), {
    code: "HANDLER_ALREADY_REGISTERED",
  });
});
