/** Sagas and process managers in an application: what starts them, what they send, what they wait for, who operates them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream, type MillstreamOptions } from "../../src/app/millstream.ts";
import type { Millstream } from "../../src/app/application.ts";
import { command, event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import { saga } from "../../src/sagas/definition.ts";
import { processManager } from "../../src/sagas/process_manager.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";
import { until } from "./messaging_fixture.ts";

interface World {
  readonly app: Millstream;
  readonly clock: VirtualClock;
  readonly seen: Observation[];
}

function world(options: MillstreamOptions = {}): World {
  const clock = virtualClock();
  const seen: Observation[] = [];
  const app = millstream({
    clock,
    random: () => 0.5,
    observer: (one) => void seen.push(one),
    store: memoryStore({ clock }),
    ...options,
  });
  return { app, clock, seen };
}

const Ref = v.object({ orderId: v.string() });
const OrderPlaced = event("order.placed", v.object({ orderId: v.string(), total: v.number() }));
const OrderPaid = event("order.paid", Ref);
const OrderExpired = event("order.expired", Ref);
const Remind = command("order.remind", Ref);

// ---- The order-fulfilment saga: four steps that write into the data, undone in reverse ------------------------------

const FulfilmentData = v.object({
  orderId: v.string(),
  customerId: v.string(),
  items: v.array(v.object({ productId: v.string(), quantity: v.number() })),
  total: v.number(),
  paymentId: v.optional(v.string()),
  shipmentId: v.optional(v.string()),
});

const order = {
  orderId: "o-1",
  customerId: "c-1",
  items: [{ productId: "p-1", quantity: 2 }],
  total: 84,
};

for (
  const [broken, status, calls] of [
    ["nothing", "completed", ["reserve 2 p-1", "charge 84", "ship", "confirm"]],
    ["payment", "compensated", ["reserve 2 p-1", "release 2 p-1"]],
    ["shipping", "compensated", ["reserve 2 p-1", "charge 84", "refund pay-o-1", "release 2 p-1"]],
    ["refund", "compensation_failed", ["reserve 2 p-1", "charge 84", "release 2 p-1"]],
  ] as const
) {
  test(`order fulfilment where ${broken} is broken ends ${status}`, async () => {
    const { app, clock } = world();
    const done: string[] = [];
    const stock = (what: string, { items }: typeof order): void =>
      void done.push(`${what} ${items.map(({ quantity, productId }) => `${quantity} ${productId}`).join()}`);
    const Fulfilment = saga("order-fulfilment", FulfilmentData)
      .step("reserve-inventory", {
        run: (data) => stock("reserve", data),
        undo: (data) => stock("release", data),
      })
      .step("process-payment", {
        run({ orderId, total }) {
          if (broken === "payment") throw refuse("CARD_DECLINED");
          done.push(`charge ${total}`);
          return { paymentId: `pay-${orderId}` };
        },
        undo({ paymentId }) {
          if (broken === "refund") throw new Error("the bank is closed");
          done.push(`refund ${paymentId}`);
        },
      })
      .step("create-shipment", {
        run({ orderId }) {
          if (broken === "shipping" || broken === "refund") throw refuse("NO_TRUCK");
          done.push("ship");
          return { shipmentId: `ship-${orderId}` };
        },
      })
      .step("confirm-order", { run: () => void done.push("confirm") });
    app.use(Fulfilment, { startOn: OrderPlaced, id: ({ data }) => data.orderId, data: () => order });
    await app.start();
    await app.publish(OrderPlaced, { orderId: "o-1", total: 84 });
    const ended = async (): Promise<boolean> => (await app.sagas.list({ status })).length === 1;
    await until(clock, ended, 1_000);
    const view = await app.sagas.get("o-1");
    assert.deepEqual([view.status, done], [status, [...calls]]);
    assert.deepEqual(view.data, {
      ...order,
      ...(broken === "payment" ? {} : { paymentId: "pay-o-1" }),
      ...(broken === "nothing" ? { shipmentId: "ship-o-1" } : {}),
    });
    await app.close();
  });
}

test("a saga is started once for an id; other data under the same id is refused, the same in another order is not", async () => {
  const { app, clock } = world();
  const One = saga("one", v.object({ a: v.number(), b: v.string() })).step("a", {
    run: ({ a }) => ({ a: a + 1 }),
  });
  await app.use(One).start();
  assert.equal(await app.startSaga(One, "x", { a: 1, b: "b" }), true);
  await clock.advance(1_000);
  assert.deepEqual((await app.sagas.settled("x")).data, { a: 2, b: "b" });
  assert.equal(await app.startSaga(One, "x", { b: "b", a: 1 }), false);
  await assert.rejects(app.startSaga(One, "x", { a: 2, b: "b" }), { code: "IDEMPOTENCY_KEY_REUSED" });
  await assert.rejects(app.startSaga(One, "y", { a: "1" as never, b: "b" }), { code: "VALIDATION_FAILED" });
  await app.close();
});

test("of thirty who start the same saga at once one does, and it runs once", async () => {
  const { app, clock } = world();
  let runs = 0;
  const One = saga("one", v.object({ a: v.number() })).step("a", { run: () => void runs++ });
  await app.use(One).start();
  const started = await Promise.all(Array.from({ length: 30 }, () => app.startSaga(One, "x", { a: 1 })));
  await clock.advance(1_000);
  assert.deepEqual([started.filter(Boolean).length, runs], [1, 1]);
  await app.close();
});

test("a saga that is started here goes on at once, and more than there are slots for wait their turn", async () => {
  const { app, clock } = world({ sagas: { concurrency: 2 } });
  let most = 0;
  let now = 0;
  const Slow = saga("slow", v.object({})).step("a", {
    run: async () => {
      most = Math.max(most, ++now);
      await new Promise<void>((resolve) => void clock.after(100, resolve));
      now--;
    },
  });
  await app.use(Slow).start();
  await Promise.all(Array.from({ length: 7 }, (_, n) => app.startSaga(Slow, `s-${n}`, {})));
  assert.equal(now, 2);
  await clock.advance(5_000);
  assert.deepEqual([(await app.sagas.list({ status: "completed" })).length, most], [7, 2]);
  await app.close();
});

test("an event that a step waits for is found by the application, and the commands a step sends run later, once each", async () => {
  const { app, clock } = world();
  const reminded: string[] = [];
  const Paying = saga("paying", v.object({ orderId: v.string(), paid: v.optional(v.boolean()) }))
    .step("remind", { run: ({ orderId }, context) => context.send(Remind, { orderId }) })
    .waitFor("payment", {
      event: OrderPaid,
      correlate: ({ data }) => `paying-${data.orderId}`,
      take: () => ({ paid: true }),
    });
  app.use(Paying, {
    startOn: OrderPlaced,
    id: ({ data }) => `paying-${data.orderId}`,
    data: ({ data }) => ({ orderId: data.orderId }),
  });
  app.handle(Remind, ({ data }) => void reminded.push(data.orderId)).serve(Remind);
  await app.start();
  await app.publish(OrderPlaced, { orderId: "o-1", total: 1 });
  await until(clock, () => reminded.length > 0, 500);
  assert.equal((await app.sagas.get("paying-o-1")).status, "waiting");
  await app.publish(OrderPaid, { orderId: "o-1" });
  await until(clock, async () => (await app.sagas.get("paying-o-1")).status === "completed", 500);
  await clock.advance(5_000);
  const { status, data } = await app.sagas.get("paying-o-1");
  assert.deepEqual([status, data, reminded], ["completed", { orderId: "o-1", paid: true }, ["o-1"]]);
  await app.close();
});

// ---- Process managers -------------------------------------------------------------------------------------------------

const Payment = processManager("payment", v.object({ reminders: v.number() }), () => ({ reminders: 0 }))
  .on(OrderPlaced, ({ data }) => data.orderId, () => ({ timers: { remind: 60_000 } }))
  .on(OrderPaid, ({ data }) => data.orderId, (state) => ({ state, end: true }))
  .onTimer("remind", ({ reminders }) =>
    reminders < 2
      ? {
        state: { reminders: reminders + 1 },
        send: [{ command: Remind, data: { orderId: "o-1" } }],
        timers: { remind: 60_000 },
      }
      : { publish: [OrderExpired({ orderId: "o-1" })], end: true });

async function paymentWorld(): Promise<World & { reminded: string[]; expired: string[] }> {
  const made = world();
  const reminded: string[] = [];
  const expired: string[] = [];
  made.app.use(Payment).handle(Remind, (_, { idempotencyKey }) => void reminded.push(idempotencyKey))
    .serve(Remind);
  made.app.on(OrderExpired, { group: "test" }, ({ data }) => void expired.push(data.orderId));
  await made.app.start();
  return { ...made, reminded, expired };
}

test("a process manager reacts to events and timers with commands, events and new timers", async () => {
  const { app, clock, reminded, expired } = await paymentWorld();
  await app.publish(OrderPlaced, { orderId: "o-1", total: 1 });
  await until(clock, () => reminded.length === 2, 1_000);
  assert.ok(clock.monotonic() >= 120_000);
  assert.deepEqual([new Set(reminded).size, expired], [2, []]);
  await until(clock, () => expired.length > 0, 1_000);
  assert.ok(clock.monotonic() >= 180_000);
  const view = await app.sagas.get("payment/o-1");
  assert.equal(view.status, "completed");
  assert.deepEqual(view.timeline.map(({ step }) => step), [
    "order.placed",
    "timer remind",
    "timer remind",
    "timer remind",
  ]);
  await app.publish(OrderPlaced, { orderId: "o-1", total: 1 });
  await clock.advance(130_000);
  assert.equal(reminded.length, 2, "after its end nothing happens any more");
  await app.close();
});

test("an event ends a process manager and its timers; an event of another id has an instance of its own", async () => {
  const { app, clock, reminded, expired } = await paymentWorld();
  await app.publish(OrderPaid, { orderId: "o-2" });
  await app.publish(OrderPlaced, { orderId: "o-1", total: 1 });
  await until(clock, () => reminded.length === 1, 1_000);
  await app.publish(OrderPaid, { orderId: "o-1" });
  const ended = async (): Promise<boolean> => (await app.sagas.list({ status: "completed" })).length === 2;
  await until(clock, ended, 1_000);
  await clock.advance(600_000);
  assert.deepEqual([reminded.length, expired], [1, []]);
  const all = await app.sagas.list({ saga: "payment" });
  assert.deepEqual(all.map(({ id, status }) => `${id} ${status}`), [
    "payment/o-1 completed",
    "payment/o-2 completed",
  ]);
  await app.close();
});

test("an event that is delivered twice is folded once, and two at the same time one after the other", async () => {
  const { app, clock } = world();
  const Counting = processManager("counting", v.object({ total: v.number() }), () => ({ total: 0 }))
    .on(
      OrderPlaced,
      ({ data }) => data.orderId,
      ({ total }, { data }) => ({ state: { total: total + data.total } }),
    );
  await app.use(Counting).start();
  await Promise.all(
    [1, 2, 4, 8].map((total) => app.publish(OrderPlaced, { orderId: "o", total }, { id: `e-${total}` })),
  );
  await clock.advance(10_000);
  // The same messages once more, as a broker delivers them whose acknowledgements were lost.
  const { sagaRuntime } = await import("../../src/sagas/runtime.ts");
  const { messageFactory } = await import("../../src/messaging/factory.ts");
  const factory = messageFactory({ source: "/t", clock, newId: () => "id", limits: {} });
  const runtime = sagaRuntime(
    {
      store: app.store,
      factory,
      clock,
      random: Math.random,
      observer: () => {},
      owner: "p2",
      dispatch: () => Promise.reject(new Error("none")),
      committed: () => {},
    },
    new Map(),
    new Map(),
  );
  for (const total of [1, 2, 4, 8]) {
    const data = { orderId: "o", total };
    const message = {
      ...(await factory.command(Remind, data, { id: `e-${total}` })),
      type: "order.placed",
      data,
    };
    await runtime.react(Counting as never, message);
  }
  const { data } = await app.sagas.get("counting/o");
  assert.deepEqual((data as { state: unknown }).state, { total: 15 });
  await app.close();
});

test("a timer whose reaction fails is tried again, and its instance says why", async () => {
  const { app, clock, seen } = world();
  let broken = true;
  const Ticking = processManager("ticking", v.object({ ticks: v.number() }), () => ({ ticks: 0 }))
    .on(OrderPlaced, ({ data }) => data.orderId, () => ({ timers: { tick: 1_000 } }))
    .onTimer("tick", ({ ticks }) => {
      if (broken) throw new Error("broken on purpose");
      return { state: { ticks: ticks + 1 } };
    });
  await app.use(Ticking).start();
  await app.publish(OrderPlaced, { orderId: "o", total: 1 });
  await clock.advance(3_000);
  assert.equal((await app.sagas.get("ticking/o")).error, "broken on purpose");
  assert.ok(seen.some((one) => one.kind === "loop-failed" && one.loop === "process ticking/o"));
  broken = false;
  await clock.advance(10_000);
  const { data } = await app.sagas.get("ticking/o");
  assert.deepEqual((data as { state: unknown }).state, { ticks: 1 });
  await app.close();
});

// ---- Operators --------------------------------------------------------------------------------------------------------

const Bumpy = (fails: () => boolean, undone: string[] = []) =>
  saga("bumpy", v.object({}), { deadlineMs: 30_000 })
    .step("a", { run: () => {}, undo: () => void undone.push("a") })
    .step("b", {
      retry: { attempts: 1_000, baseMs: 3_600_000, maxMs: 3_600_000 },
      run: () => {
        if (fails()) throw new Error("bumpy");
      },
    })
    .step("c", { run: () => {} });

test("retry tries the step again now instead of in an hour", async () => {
  const { app, clock } = world();
  let fails = true;
  const saga = Bumpy(() => fails);
  await app.use(saga).start();
  await app.startSaga(saga, "x", {});
  await clock.advance(10_000);
  fails = false;
  await app.sagas.retry("x");
  await clock.advance(1_000);
  const { status, timeline } = await app.sagas.get("x");
  assert.equal(status, "completed");
  const lines = timeline.map(({ step, action, error }) => [step, action, error].filter(Boolean).join(" "));
  assert.deepEqual(lines, ["a run", "b run bumpy", "retry", "b run", "c run"]);
  await app.close();
});

test("skip goes on without the step, cancel compensates, force-complete ends; each is in the timeline", async () => {
  const { app, clock } = world();
  const undone: string[] = [];
  const saga = Bumpy(() => true, undone);
  await app.use(saga).start();
  for (const id of ["skip", "cancel", "force"]) await app.startSaga(saga, id, {});
  await clock.advance(10_000);
  await app.sagas.skip("skip");
  await app.sagas.cancel("cancel", "the customer called");
  await app.sagas.forceComplete("force", "done by hand");
  await clock.advance(5_000);
  const all = await app.sagas.list({});
  assert.deepEqual(all.map(({ id, status }) => `${id} ${status}`), [
    "cancel compensated",
    "force completed",
    "skip completed",
  ]);
  assert.deepEqual(undone, ["a"]);
  assert.equal(all[0]!.error, "the customer called");
  for (const [id, action] of [["skip", "skip"], ["cancel", "cancel"], ["force", "force-complete"]] as const) {
    assert.ok((await app.sagas.get(id)).timeline.some((entry) => entry.action === action), id);
    await assert.rejects(app.sagas.cancel(id), { code: "REFUSED" });
    await assert.rejects(app.sagas.skip(id), { code: "REFUSED" });
  }
  await assert.rejects(app.sagas.skip("none"), { code: "NOT_FOUND" });
  await app.close();
});

test("cancel is refused past the pivot", async () => {
  const { app, clock } = world();
  const Pivoted = saga("pivoted", v.object({})).step("pay", { run: () => {}, pivot: true }).sleep(
    "wait",
    1e9,
  );
  await app.use(Pivoted).start();
  await app.startSaga(Pivoted, "x", {});
  await clock.advance(1_000);
  await assert.rejects(app.sagas.cancel("x"), { code: "REFUSED", details: { reason: "PAST_PIVOT" } });
  assert.equal((await app.sagas.get("x")).status, "waiting");
  await app.close();
});

test("an operator waits for the step under way, and gets through when it ends", async () => {
  const { app, clock } = world();
  let end = (): void => {};
  const Long = saga("long", v.object({}))
    .step("a", { run: () => new Promise<void>((resolve) => end = resolve), undo: () => {} })
    .sleep("wait", 1e9);
  await app.use(Long).start();
  await app.startSaga(Long, "x", {});
  await clock.advance(1_000);
  const cancelled = app.sagas.cancel("x");
  await clock.advance(1_000);
  end();
  await clock.advance(1_000);
  assert.equal((await cancelled).status, "compensating");
  await clock.advance(1_000);
  assert.equal((await app.sagas.get("x")).status, "compensated");
  await app.startSaga(Long, "y", {});
  await clock.advance(1_000);
  const refused = assert.rejects(app.sagas.cancel("y"), { code: "DEADLINE_EXCEEDED" });
  await clock.advance(11_000);
  await refused;
  end();
  await app.close();
});

test("an instance past its deadline is stuck: listed as such, told once, and a warning of readiness until it ends", async () => {
  const { app, clock, seen } = world();
  let fails = true;
  const saga = Bumpy(() => fails);
  await app.use(saga).start();
  await app.startSaga(saga, "x", {});
  await clock.advance(20_000);
  const warning = async (): Promise<string | undefined> =>
    (await app.health()).loops.find(({ name }) => name === "sagas")!.warning;
  assert.deepEqual([await app.sagas.list({ stuck: true }), await warning()], [[], undefined]);
  await clock.advance(30_000);
  const [stuck] = await app.sagas.list({ stuck: true });
  assert.deepEqual([stuck?.id, stuck?.stuck, (await app.health()).ready], ["x", true, true]);
  assert.match(await warning() ?? "", /1 sagas are past their deadline: x/);
  assert.equal(seen.filter((one) => one.kind === "saga" && one.status === "stuck").length, 1);
  fails = false;
  await app.sagas.retry("x");
  await clock.advance(10_000);
  assert.deepEqual([await app.sagas.list({ stuck: true }), await warning()], [[], undefined]);
  await app.close();
});

test("settled resolves when the instance ends, in this process or in another, and rejects for one that is not there", async () => {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const here = world({ store, clock });
  const there = world({ store, clock });
  const One = saga("one", v.object({})).sleep("wait", 5_000);
  await here.app.use(One).start();
  await here.app.startSaga(One, "x", {});
  const both = [here.app.sagas.settled("x"), there.app.sagas.settled("x")];
  await clock.advance(10_000);
  assert.deepEqual((await Promise.all(both)).map(({ status }) => status), ["completed", "completed"]);
  await assert.rejects(here.app.sagas.settled("none"), { code: "NOT_FOUND" });
  const stop = new AbortController();
  await here.app.startSaga(One, "y", {});
  const waiting = assert.rejects(here.app.sagas.settled("y", { signal: stop.signal }), { code: "ABORTED" });
  await clock.advance(100);
  stop.abort();
  await waiting;
  await here.app.close();
});
