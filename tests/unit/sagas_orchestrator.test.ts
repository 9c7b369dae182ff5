import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import { type Saga, saga } from "../../src/sagas/definition.ts";
import { until } from "./messaging_fixture.ts";
import { Data, outside, sagaWorld, threeSteps, withSagas } from "./sagas_fixture.ts";

const Happened = event("thing.happened", v.object({ n: v.number() }));

test("a saga runs its steps in order, passes the data on and completes", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  const three = threeSteps(world);
  assert.equal(await start(three), true);
  assert.equal(await start(three), false, "the same id again starts nothing");
  const { loop, seen } = drive(three, "p1");
  await clock.advance(1_000);
  const instance = await load();
  assert.deepEqual([instance.status, instance.data], ["completed", { order: "o", steps: ["a", "b", "c"] }]);
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/c"]);
  assert.deepEqual(
    seen.map((one) => one.kind === "saga" ? [one.step, one.status] : one.kind),
    [["a", "done"], ["b", "done"], ["c", "done"], [undefined, "completed"]],
  );
  await loop.stop();
});

test("a refusal compensates in the reverse order of the starts, and the refused step is not undone", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  const three = threeSteps(world, (step) => {
    if (step === "c") throw refuse("NO_TRUCK", "no truck");
  });
  await start(three);
  const { loop } = drive(three, "p1");
  await clock.advance(1_000);
  const instance = await load();
  assert.deepEqual([instance.status, instance.error], ["compensated", "no truck"]);
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/c", "s/b/undo", "s/a/undo"]);
  await loop.stop();
});

test("a step that fails at all its tries is in doubt, and is undone first", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  const three = threeSteps(world, (step) => {
    if (step === "b") throw new Error("connection reset");
  });
  await start(three);
  const { loop } = drive(three, "p1");
  await clock.advance(10_000);
  assert.equal((await load()).status, "compensated");
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/b", "s/b", "s/b/undo", "s/a/undo"]);
  await loop.stop();
});

test("a refusal after a try whose outcome is unknown leaves the step in doubt: it is undone", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  let tries = 0;
  const three = threeSteps(world, (step) => {
    if (step === "b") throw ++tries === 1 ? new Error("reply lost") : refuse("ALREADY_DONE");
  });
  await start(three);
  const { loop } = drive(three, "p1");
  await clock.advance(10_000);
  assert.equal((await load()).status, "compensated");
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/b", "s/b/undo", "s/a/undo"]);
  await loop.stop();
});

for (
  const [what, last] of [
    ["returns data that the saga's schema refuses", () => ({ order: 5 })],
    ["returns data that cannot be stored", () => ({ order: "o", more: new Date() })],
    [
      "publishes an event that is not valid",
      (ctx: { publish: (...args: never[]) => void }) => ctx.publish(...[Happened, { n: "one" }] as never[]),
    ],
    [
      "appends to a stream that cannot be",
      (ctx: { append: (...args: never[]) => void }) =>
        ctx.append(...["\u0000", [Happened({ n: 1 })]] as never[]),
    ],
    ["throws an error that is not retryable", () => {
      throw Object.assign(new Error("declined"), { retryable: false });
    }],
  ] as const
) {
  test(`a step that has acted and then ${what} is undone, since its effect is there`, async () => {
    const { clock, drive, start, load } = sagaWorld();
    const world = outside();
    const loose = v.looseObject({ order: v.string() }) as unknown as typeof Data;
    const broken = saga("broken", loose).step("a", {
      retry: { attempts: 2, baseMs: 10 },
      run(_, context) {
        world.act(context);
        return last(context as never) as never;
      },
      undo: (_, context) => world.act(context),
    });
    await start(broken);
    const { loop } = drive(broken, "p1");
    await until(clock, async () => (await load()).status !== "running", 500);
    await clock.advance(1_000);
    assert.equal((await load()).status, "compensated");
    assert.deepEqual(world.effects, ["s/a", "s/a/undo"]);
    await loop.stop();
  });
}

test("a step is tried again as its own policy says, after growing delays", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const at: number[] = [];
  const one = saga("one", Data).step("a", {
    retry: { attempts: 4, baseMs: 1_000 },
    run(_, { attempt }) {
      at.push(clock.monotonic());
      if (attempt < 4) throw new Error("not yet");
    },
  });
  await start(one);
  const { loop } = drive(one, "p1");
  await clock.advance(10_000);
  assert.equal((await load()).status, "completed");
  const waits = at.slice(1).map((time, index) => time - at[index]!);
  // Half of 1, 2 and 4 seconds, and up to one look of the orchestrator.
  [500, 1_000, 2_000].forEach((ms, index) =>
    assert.ok(waits[index]! >= ms && waits[index]! <= ms + 200, `${waits}`)
  );
  await loop.stop();
});

test("a step over its timeout has failed with an unknown outcome; its signal aborts and it sends nothing more", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const late: string[] = [];
  const slow = saga("slow", Data).step("a", {
    timeoutMs: 1_000,
    retry: { attempts: 1 },
    async run(_, { signal, dispatch }) {
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      late.push(signal.reason.code);
      await dispatch(undefined as never, {} as never).catch((error) => late.push(error.code ?? error.name));
    },
    undo: () => void late.push("undone"),
  });
  await start(slow);
  const { loop } = drive(slow, "p1");
  await clock.advance(5_000);
  assert.equal((await load()).status, "compensated");
  assert.deepEqual([late[0], late.includes("undone")], ["HANDLER_TIMEOUT", true]);
  await loop.stop();
});

test("an undo that fails for ever ends as compensation_failed, and the other undos still run", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  let three: Saga<Data> = saga("stuck", Data);
  for (const step of ["a", "b", "c"]) {
    three = three.step(step, {
      undoRetry: { attempts: 2, baseMs: 10 },
      run: (_, context) => {
        world.act(context);
        if (step === "c") throw refuse("NO");
      },
      undo(_, context) {
        world.act(context);
        if (step === "b") throw new Error("undo is broken");
      },
    });
  }
  await start(three);
  const { loop } = drive(three, "p1");
  await clock.advance(10_000);
  const instance = await load();
  assert.equal(instance.status, "compensation_failed");
  assert.deepEqual(instance.steps.map(({ name, status }) => [name, status]), [["a", "undone"], [
    "b",
    "undo_failed",
  ], ["c", "undone"]]);
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/c", "s/b/undo", "s/b/undo", "s/a/undo"]);
  await loop.stop();
});

test("what a step appends and publishes commits with the step, under ids that a repeated try makes again", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  let crash = true;
  const one = saga("one", Data).step("a", {
    run(_, context) {
      context.publish(Happened, { n: 1 });
      context.append("stream-1", [Happened({ n: 2 })]);
    },
  });
  await start(one);
  // Interleaving: the step has run, its commit fails after everything was written, the lease runs out, it runs again.
  const tried: string[] = [];
  const dying: typeof store = {
    ...store,
    transaction: (work) =>
      store.transaction(async (ports) => {
        const append: typeof ports.events.append = (appends) => {
          tried.push(...appends.flatMap(({ events }) => events.map(({ id }) => id)));
          return ports.events.append(appends);
        };
        const result = await work({ ...ports, events: { ...ports.events, append } });
        if (crash) {
          crash = false;
          throw new Error("crashed before the commit");
        }
        return result;
      }),
  };
  const { loop } = drive(one, "p1", dying);
  await until(clock, async () => (await load()).status === "completed", 500);
  assert.equal((await load()).status, "completed");
  const stream = await store.events.readStream("stream-1");
  assert.deepEqual([stream.length, tried], [1, [stream[0]!.id, stream[0]!.id]]);
  const outbox = await store.outbox.pending(10);
  assert.deepEqual(outbox.map(({ topic }) => topic), ["thing", "thing"]);
  assert.equal(new Set(outbox.map(({ id }) => id)).size, 2);
  await loop.stop();
});

test("a commit whose reply is lost adds nothing twice when the step is looked at again", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  let lost = true;
  let runs = 0;
  const one = saga("one", Data).step("a", {
    run(_, context) {
      runs++;
      context.append("stream-1", [Happened({ n: 2 })]);
    },
  });
  await start(one);
  const { loop } = drive(one, "p1", {
    ...store,
    async transaction(work) {
      const result = await store.transaction(work);
      if (!lost) return result;
      lost = false;
      throw new Error("reply lost after the commit");
    },
  });
  await until(clock, async () => (await load()).status === "completed", 500);
  assert.deepEqual([(await load()).status, runs], ["completed", 1]);
  assert.equal((await store.events.readStream("stream-1")).length, 1);
  await loop.stop();
});

test("a shutdown in the middle of a step is no failure: the next process resumes at once under the same key", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const keys: string[] = [];
  let first = true;
  const one = saga("one", Data).step("a", {
    retry: { attempts: 1 },
    async run(_, { idempotencyKey, signal }) {
      keys.push(idempotencyKey);
      if (!first) return;
      first = false;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      throw new Error("stopped");
    },
  });
  await start(one);
  const before = drive(one, "p1");
  await clock.advance(300);
  await before.loop.stop();
  assert.deepEqual([(await load()).status, keys.length], ["running", 1]);
  const after = drive(one, "p2");
  await clock.advance(300);
  assert.equal((await load()).status, "completed");
  assert.deepEqual(keys, ["s/a", "s/a"]);
  assert.deepEqual(before.seen, []);
  await after.loop.stop();
});

test("a leader paused past its lease: the other finishes, the paused one is refused and records no step twice", async () => {
  // Interleaving: p1 is in step b when its renewals stop; its lease runs out; p2 claims, repeats b and completes;
  // p1 wakes up and wants to save.
  const { clock, store, drive, start, load } = sagaWorld();
  const world = outside();
  let wake = (): void => {};
  const paused = new Promise<void>((resolve) => wake = resolve);
  const build = (owner: string): Saga<Data> =>
    threeSteps(world).step("d", {
      run: async (_, context) => {
        world.act(context);
        if (owner === "p1") await paused;
      },
    });
  await start(build("p1"));
  let looks = 0;
  const p1 = drive(
    build("p1"),
    "p1",
    withSagas(store, (sagas) => ({
      renew: () => new Promise(() => {}),
      claim: (...args) => looks++ > 0 ? Promise.resolve([]) : sagas.claim(...args),
    })),
  );
  await clock.advance(1_000);
  const p2 = drive(build("p2"), "p2");
  await clock.advance(20_000);
  const finished = await load();
  assert.equal(finished.status, "completed");
  wake();
  await clock.advance(1_000);
  assert.deepEqual(await load(), finished);
  assert.deepEqual(p1.seen.filter(({ kind }) => kind === "lease-lost").length, 1);
  assert.deepEqual(p2.seen.filter((one) => one.kind === "saga").map((one) => one.status), [
    "done",
    "completed",
  ]);
  assert.deepEqual(world.effects, ["s/a", "s/b", "s/c", "s/d"]);
  await Promise.all([p1.loop.stop(), p2.loop.stop()]);
});

test("a lost lease aborts the step's signal", async () => {
  const { clock, store, drive, start } = sagaWorld();
  let reason: unknown;
  const one = saga("one", Data).step("a", {
    run: (_, { signal }) =>
      new Promise((resolve) =>
        signal.addEventListener("abort", () => {
          reason = signal.reason;
          resolve();
        })
      ),
  });
  await start(one);
  const p1 = drive(
    one,
    "p1",
    withSagas(store, () => ({ renew: (claims) => Promise.resolve(claims.map(() => false)) })),
  );
  await clock.advance(6_000);
  assert.equal((reason as { code: string }).code, "LEASE_LOST");
  await p1.loop.stop();
});

test("no timer is left when a saga ends while its lease is being renewed", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  let answer = (_kept: boolean[]): void => {};
  let finish = (): void => {};
  const one = saga("one", Data).step("a", { run: () => new Promise<void>((resolve) => finish = resolve) });
  await start(one);
  const p1 = drive(
    one,
    "p1",
    withSagas(store, () => ({ renew: () => new Promise((resolve) => answer = resolve) })),
  );
  await clock.advance(6_000);
  finish();
  await clock.advance(10);
  assert.equal((await load()).status, "completed");
  await p1.loop.stop();
  answer([true]);
  await clock.advance(0);
  assert.equal(clock.pending, 0);
});

test("an instance with a step that no longer exists is parked visibly, and goes on where the step is known", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  const world = outside();
  const three = threeSteps(world);
  await start(three);
  const [claim] = await store.sagas.claim(["three"], "p0", 1_000, 1);
  const steps = ["a", "gone"].map((name) => ({ name, status: "done" as const, attempt: 1, startedAt: 0 }));
  const saved = { ...claim!.instance, status: "compensating" as const, steps, error: "no" };
  await store.sagas.save([{ claimed: claim!, instance: saved, release: true }]);
  const old = drive(three, "p1");
  await clock.advance(3_600_000);
  const parked = await load();
  assert.deepEqual([parked.status, parked.parked?.status, world.calls], [
    "needs_migration",
    "compensating",
    [],
  ]);
  assert.match(parked.parked?.reason ?? "", /no version 1 of saga "three" with all steps/);
  assert.equal(old.seen.filter((one) => one.kind === "saga" && one.status === "needs_migration").length, 1);
  await old.loop.stop();
  const gone = three.step("gone", { run: () => {}, undo: (_, context) => world.act(context) });
  const { loop } = drive(gone, "p2");
  await clock.advance(120_000);
  const { status, error, parked: still } = await load();
  assert.deepEqual([status, error, still], ["compensated", "no", undefined]);
  assert.deepEqual(world.calls, ["s/gone/undo", "s/a/undo"]);
  await loop.stop();
});

test("two sagas cannot have the same id, and a bad id is refused", async () => {
  const { start } = sagaWorld();
  await start(threeSteps(outside()), "x");
  await assert.rejects(start(saga("other", Data), "x"), {
    code: "INVALID_ARGUMENT",
    details: { id: "x", saga: "three" },
  });
  await assert.rejects(start(saga("other", Data), ""), { code: "INVALID_ARGUMENT" });
});

test("a saga is immutable, and its steps have names of their own", () => {
  const base = saga("s", Data);
  const one = base.step("a", { run: () => {} });
  assert.deepEqual([base.steps.length, one.steps.length], [0, 1]);
  assert.throws(() => one.step("a", { run: () => {} }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => one.step("b c", { run: () => {} }), { code: "INVALID_ARGUMENT" });
});
