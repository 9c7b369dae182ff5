/** What steps can be: verified, in doubt, past the point of no return, side by side, waiting, timed, sagas themselves. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { event } from "../../src/core/definition.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import { timeline } from "../../src/sagas/advance.ts";
import { type Saga, saga, type StepContext } from "../../src/sagas/definition.ts";
import type { Store } from "../../src/ports/store.ts";
import { Data, outside, sagaWorld, threeSteps, withSagas } from "./sagas_fixture.ts";

const NEVER = new Promise<never>(() => {});
/** The store of a process that dies at its save number `at` + 1, or at its first renewal. */
function dying(store: Store, at = Infinity): Store {
  let saves = 0;
  let claims = 0;
  return withSagas(store, (sagas) => ({
    claim: (...args) => ++claims > 1 ? NEVER : sagas.claim(...args),
    save: (...args) => ++saves > at ? NEVER : sagas.save(...args),
    renew: () => NEVER,
  }));
}

const Paid = event("payment.received", v.object({ saga: v.string(), amount: v.number() }));

for (
  const [answer, calls] of [[true, ["s/a"]], [false, ["s/a", "s/a"]], [{ steps: ["known"] }, [
    "s/a",
  ]]] as const
) {
  test(`a step in doubt after a crash is verified; the answer ${JSON.stringify(answer)} decides whether it runs again`, async () => {
    const { clock, drive, start, load, store } = sagaWorld();
    const world = outside();
    const asked: string[] = [];
    const one = saga("one", Data).step("a", {
      run: (_, context) => world.act(context),
      verify: (_, { idempotencyKey }) => {
        asked.push(idempotencyKey);
        return answer as boolean;
      },
    });
    await start(one);
    // Interleaving: the step has acted, and its process dies before that is saved.
    drive(one, "p1", dying(store, 1));
    await clock.advance(1_000);
    assert.deepEqual([world.calls, asked], [["s/a"], []], "a first try is not verified");
    const { loop } = drive(one, "p2");
    await clock.advance(15_000);
    const { status, data } = await load();
    assert.deepEqual([status, world.calls, asked], ["completed", calls, ["s/a"]]);
    assert.deepEqual((data as Data).steps, typeof answer === "object" ? answer.steps : undefined);
    await loop.stop();
  });
}

test("a step whose doubt means undo is not run again after a crash: the saga compensates, this step first", async () => {
  const { clock, drive, start, load, store } = sagaWorld();
  const world = outside();
  const act = (_: unknown, context: StepContext): void => world.act(context);
  const two = saga("two", Data).step("a", { run: act, undo: act }).step("b", {
    run: act,
    undo: act,
    inDoubt: "undo",
  });
  await start(two);
  drive(two, "p1", dying(store, 2));
  await clock.advance(1_000);
  const { loop } = drive(two, "p2");
  await clock.advance(15_000);
  const { status, error } = await load();
  assert.deepEqual([status, world.calls], ["compensated", ["s/a", "s/b", "s/b/undo", "s/a/undo"]]);
  assert.match(error ?? "", /"b" was running when its process stopped/);
  await loop.stop();
});

test("past the point of no return a step in doubt is tried again, even where it would be undone before it", async () => {
  const { clock, drive, start, load, store } = sagaWorld();
  const world = outside();
  const act = (_: unknown, context: StepContext): void => world.act(context);
  const two = saga("two", Data).step("a", { run: act, undo: act, pivot: true }).step("b", {
    run: act,
    undo: act,
    inDoubt: "undo",
  });
  await start(two);
  drive(two, "p1", dying(store, 2));
  await clock.advance(1_000);
  const { loop } = drive(two, "p2");
  await clock.advance(15_000);
  assert.deepEqual([(await load()).status, world.calls], ["completed", ["s/a", "s/b", "s/b"]]);
  await loop.stop();
});

test("errors are answered as declared: by code or name, to compensate at once, with tries of their own, or for ever", async () => {
  const run = async (throws: (tries: number) => Error | undefined): Promise<[string, number]> => {
    const { clock, drive, start, load } = sagaWorld();
    let tries = 0;
    const one = saga("one", Data).step("a", {
      retry: {
        attempts: 2,
        baseMs: 10,
        on: { Declined: "compensate", UNAVAILABLE: "retry", Busy: { attempts: 7 } },
      },
      run() {
        const error = throws(++tries);
        if (error) throw error;
      },
    });
    await start(one);
    const { loop } = drive(one, "p1");
    await clock.advance(600_000);
    await loop.stop();
    return [(await load()).status, tries];
  };
  const named = (name: string): Error => Object.assign(new Error("no"), { name });
  assert.deepEqual(await run(() => named("Declined")), ["compensated", 1]);
  assert.deepEqual(await run(() => named("Busy")), ["compensated", 7]);
  assert.deepEqual(await run(() => named("Other")), ["compensated", 2]);
  const away = new MillstreamError("UNAVAILABLE", "away");
  assert.deepEqual(await run((tries) => tries < 12 ? away : undefined), ["completed", 12]);
});

test("past the pivot a saga only goes forward: a refusal is tried again until it is gone", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  let refusals = 8;
  const act = (_: unknown, context: StepContext): void => world.act(context);
  const three = saga("three", Data)
    .step("a", { run: act, undo: act })
    .step("pay", { run: act, pivot: true })
    .step("ship", {
      retry: { attempts: 2, baseMs: 10 },
      run(_, context) {
        world.act(context);
        if (refusals-- > 0) throw refuse("NO_TRUCK");
      },
    });
  await start(three);
  const { loop } = drive(three, "p1");
  await clock.advance(60_000);
  assert.equal((await load()).status, "completed");
  assert.deepEqual(world.calls, ["s/a", "s/pay", ...Array<string>(9).fill("s/ship")]);
  await loop.stop();
});

test("the pivot itself compensates on a refusal, and is tried on while its outcome is unknown", async () => {
  for (
    const [error, status, tries] of [[refuse("NO"), "compensated", 1], [
      new Error("lost"),
      "completed",
      9,
    ]] as const
  ) {
    const { clock, drive, start, load } = sagaWorld();
    let runs = 0;
    const one = saga("one", Data).step("pay", {
      pivot: true,
      retry: { attempts: 2, baseMs: 10 },
      run() {
        if (++runs < 9) throw error;
      },
    });
    await start(one);
    const { loop } = drive(one, "p1");
    await clock.advance(60_000);
    assert.deepEqual([(await load()).status, runs], [status, tries]);
    await loop.stop();
  }
});

test("parallel steps run side by side, all of them before the next, and keep what each returned", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const order: string[] = [];
  const slow = (name: string, ms: number) => ({
    run: async () => {
      order.push(`${name} begins`);
      await new Promise<void>((resolve) => void clock.after(ms, resolve));
      order.push(`${name} ends`);
      return { [name]: ms };
    },
  });
  const All = v.looseObject({ order: v.string() }) as unknown as typeof Data;
  const both = saga("both", All).parallel({ a: slow("a", 500), b: slow("b", 100) }).step("c", slow("c", 10));
  await start(both);
  const { loop } = drive(both, "p1");
  await clock.advance(2_000);
  assert.deepEqual(order, ["a begins", "b begins", "b ends", "a ends", "c begins", "c ends"]);
  const { status, data } = await load();
  assert.deepEqual([status, data], ["completed", { order: "o", a: 500, b: 100, c: 10 }]);
  await loop.stop();
});

test("when one of several parallel steps is refused, the others come to their end and all are undone, last started first", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const world = outside();
  const act = (_: unknown, context: StepContext): void => world.act(context);
  const both = saga("both", Data).parallel({
    a: {
      run: async (_, context) => {
        await new Promise<void>((resolve) => void clock.after(500, resolve));
        world.act(context);
      },
      undo: act,
    },
    b: {
      run: () => {
        throw refuse("NO");
      },
      undo: act,
    },
    c: { run: act, undo: act },
  });
  await start(both);
  const { loop } = drive(both, "p1");
  await clock.advance(2_000);
  assert.equal((await load()).status, "compensated");
  assert.deepEqual(world.calls, ["s/c", "s/a", "s/c/undo", "s/a/undo"]);
  await loop.stop();
});

test("a step in a parallel group that dies with its process is repeated, and its neighbour is not", async () => {
  const { clock, drive, start, load, store } = sagaWorld();
  const world = outside();
  const build = (hangs: boolean): Saga<Data> =>
    saga("both", Data).parallel({
      a: { run: (_, context) => world.act(context) },
      b: {
        run: async (_, context) => {
          world.act(context);
          if (hangs) await NEVER;
        },
      },
    });
  await start(build(true));
  drive(build(true), "p1", dying(store));
  await clock.advance(1_000);
  const { loop } = drive(build(false), "p2");
  await clock.advance(15_000);
  assert.equal((await load()).status, "completed");
  assert.deepEqual(world.calls, ["s/a", "s/b", "s/b"]);
  await loop.stop();
});

function waiting(more: { timeoutMs?: number; onTimeout?: "compensate" | "continue" } = {}): Saga<Data> {
  return saga("paying", Data).waitFor("payment", {
    event: Paid,
    correlate: ({ data }) => data.saga,
    take: (data, { data: { amount } }) => ({ steps: [...data.steps ?? [], `paid ${amount}`] }),
    ...more,
  }).step("ship", { run: (data) => ({ steps: [...data.steps ?? [], "shipped"] }) });
}

const message = (amount: number): string => JSON.stringify({ data: { saga: "s", amount } });

for (const when of ["while it waits", "before it waits", "before it was started"] as const) {
  test(`a step waits for its event; one that comes ${when} is not missed, and a second one changes nothing`, async () => {
    const { clock, store, drive, start, load } = sagaWorld();
    const paying = waiting();
    if (when === "before it was started") await store.sagas.signal("s", "payment", message(7));
    await start(paying);
    if (when === "before it waits") await store.sagas.signal("s", "payment", message(7));
    const { loop, seen } = drive(paying, "p1");
    await clock.advance(5_000);
    if (when === "while it waits") {
      assert.equal((await load()).status, "waiting");
      assert.ok(seen.some((one) => one.kind === "saga" && one.status === "waiting"));
      await store.sagas.signal("s", "payment", message(7));
    }
    await store.sagas.signal("s", "payment", message(8));
    await clock.advance(1_000);
    const { status, data } = await load();
    assert.deepEqual([status, (data as Data).steps], ["completed", ["paid 7", "shipped"]]);
    await loop.stop();
  });
}

test("an event that comes between the look for it and the save that waits is not missed", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  const paying = waiting();
  await start(paying);
  const late = withSagas(store, (sagas) => ({
    async signals(id) {
      const before = await sagas.signals(id);
      if (before.byName.size === 0) await sagas.signal(id, "payment", message(7));
      return before;
    },
  }));
  const { loop } = drive(paying, "p1", late);
  await clock.advance(2_000);
  assert.equal((await load()).status, "completed");
  await loop.stop();
});

for (const onTimeout of ["compensate", "continue"] as const) {
  test(`an event that does not come in time: the saga can ${onTimeout}`, async () => {
    const { clock, drive, start, load } = sagaWorld();
    const paying = waiting({ timeoutMs: 60_000, onTimeout });
    await start(paying);
    const { loop } = drive(paying, "p1");
    await clock.advance(59_000);
    assert.equal((await load()).status, "waiting");
    await clock.advance(2_000);
    const { status, data, error } = await load();
    if (onTimeout === "continue") {
      assert.deepEqual([status, (data as Data).steps], ["completed", ["shipped"]]);
    } else assert.deepEqual([status, error], ["compensated", 'Step "payment" waited longer than 60000 ms']);
    await loop.stop();
  });
}

test("a timer fires when it is due, also in another process than the one that set it", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const timed = saga("timed", Data).sleep("cool-off", ({ order }) => order.length * 60_000).step("b", {
    run: () => ({ steps: ["b"] }),
  });
  await start(timed);
  const first = drive(timed, "p1");
  await clock.advance(1_000);
  await first.loop.stop();
  const { loop } = drive(timed, "p2");
  await clock.advance(58_000);
  assert.equal((await load()).status, "waiting");
  await clock.advance(2_000);
  assert.equal((await load()).status, "completed");
  await loop.stop();
});

interface Family {
  readonly world: ReturnType<typeof outside>;
  readonly parent: Saga<Data>;
  readonly child: Saga<Data>;
}

function family(fails: { parent?: boolean; child?: boolean; pivot?: boolean }): Family {
  const world = outside();
  const act = (_: unknown, context: StepContext): void => world.act(context);
  const child = saga("child", Data)
    .step("pick", { run: act, undo: act, ...(fails.pivot ? { pivot: true } : {}) })
    .step("pack", {
      undo: act,
      run(_, context) {
        if (fails.child) throw refuse("NO_BOX");
        world.act(context);
        return { steps: ["packed"] };
      },
    });
  const parent = saga("parent", Data)
    .step("pay", { run: act, undo: act })
    .child("deliver", {
      saga: child,
      data: ({ order }) => ({ order }),
      take: (_, { steps = [] }) => ({ steps: [...steps, "delivered"] }),
    })
    .step("thank", {
      run() {
        if (fails.parent) throw refuse("NO_CARD");
      },
    });
  return { world, parent, child };
}

test("a child saga runs as a step; its parent waits for it and takes what it brought", async () => {
  const { clock, driveAll, start, load } = sagaWorld();
  const { world, parent, child } = family({});
  await start(parent);
  const { loop } = driveAll([parent, child], "p1");
  await clock.advance(5_000);
  const { status, data } = await load();
  assert.deepEqual([status, (data as Data).steps], ["completed", ["packed", "delivered"]]);
  assert.deepEqual((await load("s/deliver")).parent, { id: "s", step: "deliver" });
  assert.deepEqual(world.calls, ["s/pay", "s/deliver/pick", "s/deliver/pack"]);
  await loop.stop();
});

test("a child that compensates makes its parent compensate", async () => {
  const { clock, driveAll, start, load } = sagaWorld();
  const { world, parent, child } = family({ child: true });
  await start(parent);
  const { loop } = driveAll([parent, child], "p1");
  await clock.advance(5_000);
  assert.deepEqual([(await load()).status, (await load("s/deliver")).status], ["compensated", "compensated"]);
  assert.match((await load()).error ?? "", /Child "deliver" ended compensated: NO_BOX/);
  assert.deepEqual(world.calls, ["s/pay", "s/deliver/pick", "s/deliver/pick/undo", "s/pay/undo"]);
  await loop.stop();
});

test("a parent that compensates has its completed child undone first", async () => {
  const { clock, driveAll, start, load } = sagaWorld();
  const { world, parent, child } = family({ parent: true });
  await start(parent);
  const { loop } = driveAll([parent, child], "p1");
  await clock.advance(10_000);
  assert.deepEqual([(await load()).status, (await load("s/deliver")).status], ["compensated", "compensated"]);
  assert.deepEqual(world.calls.slice(3), ["s/deliver/pack/undo", "s/deliver/pick/undo", "s/pay/undo"]);
  await loop.stop();
});

test("a child past its pivot cannot be undone: its parent says so, and undoes the rest", async () => {
  const { clock, driveAll, start, load } = sagaWorld();
  const { world, parent, child } = family({ parent: true, pivot: true });
  await start(parent);
  const { loop } = driveAll([parent, child], "p1");
  await clock.advance(10_000);
  assert.equal((await load()).status, "compensation_failed");
  assert.deepEqual(world.calls.slice(3), ["s/pay/undo"]);
  await loop.stop();
});

test("a running instance keeps the version it was started with; a newer definition drives it by its older one", async () => {
  const { clock, drive, start, load } = sagaWorld();
  const v1 = saga("changing", Data).sleep("wait", 10_000).step("old", { run: () => ({ steps: ["old"] }) });
  const build = (older: Saga<Data>[]): Saga<Data> =>
    saga("changing", Data, { version: 2, older }).step("new", { run: () => ({ steps: ["new"] }) });
  await start(v1);
  const before = drive(v1, "p1");
  await clock.advance(1_000);
  await before.loop.stop();
  const without = drive(build([]), "p2");
  await clock.advance(20_000);
  const parked = await load();
  assert.deepEqual([parked.status, parked.parked?.status], ["needs_migration", "waiting"]);
  await without.loop.stop();
  const { loop } = drive(build([v1]), "p3");
  await start(build([v1]), "t");
  await clock.advance(90_000);
  assert.deepEqual([(await load()).data, (await load()).version], [{ order: "o", steps: ["old"] }, 1]);
  assert.deepEqual([(await load("t")).data, (await load("t")).version], [{ order: "o", steps: ["new"] }, 2]);
  await loop.stop();
});

test("the timeline has every try: step, attempt, duration and error, also of what was undone and of a try in doubt", async () => {
  const { clock, drive, start, load } = sagaWorld();
  let tries = 0;
  const two = saga("two", Data)
    .step("a", {
      retry: { baseMs: 0 },
      run: async () => {
        await new Promise<void>((resolve) => void clock.after(30, resolve));
        if (++tries === 1) throw new Error("first");
      },
      undo: () => {},
    })
    .step("b", {
      run: () => {
        throw refuse("NO", "no");
      },
    });
  await start(two);
  const { loop } = drive(two, "p1");
  await clock.advance(5_000);
  const lines = timeline(await load()).map(({ step, action, attempt, startedAt, endedAt, error }) =>
    [step, action, attempt, (endedAt ?? NaN) - startedAt, error].join(" ").trim()
  );
  assert.deepEqual(lines, ["a run 1 30 first", "a run 2 30", "b run 1 0 no", "a undo 1 0"]);
  await loop.stop();
});

test("a commit that fails for a moment is repeated at once, and not left to the end of the lease", async () => {
  const { clock, store, drive, start, load } = sagaWorld();
  const three = threeSteps(outside());
  await start(three);
  let failures = 3;
  const shaky = withSagas(store, (sagas) => ({
    async save(saves) {
      if (saves[0]!.instance.steps.length > 1 && failures-- > 0) {
        throw new MillstreamError("UNAVAILABLE", "the server restarts");
      }
      return await sagas.save(saves);
    },
  }));
  const { loop, seen } = drive(three, "p1", shaky);
  await clock.advance(1_000);
  assert.equal((await load()).status, "completed");
  assert.equal(seen.filter(({ kind }) => kind === "loop-failed").length, 3);
  await loop.stop();
});
