import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { type Millstream, millstream, type MillstreamOptions } from "../../mod.ts";
import { command, event, query } from "../../src/core/definition.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import {
  authorized,
  cached,
  type CommandLog,
  deadline,
  logged,
  once,
  retried,
} from "../../src/cqrs/middleware.ts";
import { memoryStore, virtualClock } from "../../src/testing/mod.ts";

const Pay = command("payment.make", v.object({ amount: v.number() }), {
  result: v.object({ receipt: v.number() }),
});
const Paid = event("payment.made", v.object({ amount: v.number() }));
const Balance = query("balance", v.object({ account: v.string() }));

/** An application whose handler counts its runs. */
function payments(options: MillstreamOptions = {}, handlerOptions: { readonly once?: boolean } = {}): {
  readonly app: Millstream;
  readonly runs: number[];
  readonly fail: (failure?: Error) => void;
} {
  const runs: number[] = [];
  let failure: Error | undefined;
  const app = millstream(options).handle(Pay, handlerOptions, async ({ data }, ctx) => {
    runs.push(data.amount);
    await ctx.append("payments", [Paid(data)]);
    if (failure) throw failure;
    return { receipt: runs.length };
  });
  return { app, runs, fail: (next) => failure = next };
}

test("middleware runs around the handler, the first added outermost, and may be added until it is needed", async () => {
  const { app } = payments();
  const order: string[] = [];
  for (const name of ["outer", "inner"]) {
    app.middleware((next) => async (sent, signal) => {
      order.push(`${name} in`);
      const result = await next(sent, signal);
      order.push(`${name} out`);
      return result;
    });
  }
  await app.dispatch(Pay, { amount: 1 });
  app.middleware((next) => async (sent, signal) => {
    order.push("late");
    return await next(sent, signal);
  });
  await app.dispatch(Pay, { amount: 1 });
  assert.deepEqual(order, [
    ...["outer in", "inner in", "inner out", "outer out"],
    ...["outer in", "inner in", "late", "inner out", "outer out"],
  ]);
});

test("a command that is not allowed is refused before its handler", async () => {
  const { app, runs } = payments();
  app.middleware(authorized(({ userId }) => userId === "alice"));
  await assert.rejects(app.dispatch(Pay, { amount: 1 }, { userId: "bob" }), {
    code: "REFUSED",
    details: { reason: "FORBIDDEN" },
  });
  await app.dispatch(Pay, { amount: 2 }, { userId: "alice" });
  assert.deepEqual(runs, [2]);
});

test("each command is logged with its time and outcome, and a log that throws harms nobody", async () => {
  const clock = virtualClock();
  const { app, fail } = payments({ store: memoryStore({ clock }), clock });
  const entries: CommandLog[] = [];
  app.middleware(logged((entry) => {
    entries.push(entry);
    throw new Error("disk full");
  }, { clock }));
  await app.dispatch(Pay, { amount: 1 }, { id: "p-1", userId: "alice", correlationId: "c-1" });
  fail(refuse("NO_MONEY"));
  await assert.rejects(app.dispatch(Pay, { amount: 1 }, { id: "p-2" }), { code: "REFUSED" });
  assert.deepEqual(
    entries.map(({ id, userId, correlationId, error }) => [id, userId, correlationId, error?.message]),
    [
      ["p-1", "alice", "c-1", undefined],
      ["p-2", undefined, "p-2", "NO_MONEY"],
    ],
  );
});

test("a conflict is tried again under the same id, a refusal is not", async () => {
  const clock = virtualClock();
  const { app, runs, fail } = payments({ store: memoryStore({ clock }), clock });
  app.middleware(retried({ attempts: 4, clock }));
  fail(new MillstreamError("CONCURRENCY_CONFLICT", "someone was faster"));
  const paying = app.dispatch(Pay, { amount: 1 }, { id: "p-1" });
  paying.catch(() => {}); // seen below
  while (runs.length < 2) await clock.advance(1);
  fail(undefined);
  await clock.advance(10_000);
  assert.deepEqual((await paying).result, { receipt: runs.length });
  assert.equal((await app.store.events.readStream("payments")).length, 1);
  fail(refuse("NO_MONEY"));
  await assert.rejects(app.dispatch(Pay, { amount: 9 }), { code: "REFUSED" });
  assert.deepEqual(runs.filter((amount) => amount === 9), [9]);
});

test("a command past its deadline rejects with its id, and its handler is told", async () => {
  const clock = virtualClock();
  const app = millstream({ store: memoryStore({ clock }), clock });
  let told: unknown;
  app.handle(
    Pay,
    (_, { signal }) =>
      new Promise<never>((_, reject) =>
        signal.addEventListener("abort", () => {
          told = signal.reason;
          reject(signal.reason);
        })
      ),
  ).middleware(deadline(1_000, { clock }));
  const late = assert.rejects(app.dispatch(Pay, { amount: 1 }, { id: "p-1" }), {
    code: "DEADLINE_EXCEEDED",
    details: { id: "p-1", timeoutMs: 1_000 },
  });
  await clock.advance(1_000);
  await late;
  assert.ok(told instanceof MillstreamError);
});

for (const how of ["handle(..., { once: true })", "once() as middleware"]) {
  const start = (): ReturnType<typeof payments> => {
    const started = payments({}, { once: how.startsWith("handle") });
    if (!how.startsWith("handle")) started.app.middleware(once(started.app.store.idempotency));
    return started;
  };

  test(`${how}: the same id gets the first result, another payload is refused, other ids run`, async () => {
    const { app, runs } = start();
    const first = await app.dispatch(Pay, { amount: 1 }, { id: "p-1" });
    assert.deepEqual(await app.dispatch(Pay, { amount: 1 }, { id: "p-1" }), first);
    assert.ok(first.position);
    await assert.rejects(app.dispatch(Pay, { amount: 2 }, { id: "p-1" }), { code: "IDEMPOTENCY_KEY_REUSED" });
    assert.deepEqual((await app.dispatch(Pay, { amount: 1 }, { id: "p-2" })).result, { receipt: 2 });
    assert.equal(runs.length, 2);
  });

  test(`${how}: of ten at once one runs, and all get its result`, async () => {
    const { app, runs } = start();
    const all = await Promise.all(
      Array.from({ length: 10 }, () => app.dispatch(Pay, { amount: 1 }, { id: "p-1" })),
    );
    assert.equal(new Set(all.map(({ result }) => result.receipt)).size, 1);
    assert.equal(runs.length, 1);
  });

  test(`${how}: a failure is not kept, and leaves nothing behind`, async () => {
    const { app, runs, fail } = start();
    fail(refuse("NO_MONEY"));
    await assert.rejects(app.dispatch(Pay, { amount: 1 }, { id: "p-1" }), { code: "REFUSED" });
    fail(undefined);
    assert.deepEqual((await app.dispatch(Pay, { amount: 1 }, { id: "p-1" })).result, { receipt: 2 });
    assert.equal(runs.length, 2);
    assert.equal((await app.store.events.readStream("payments")).length, 1);
  });
}

test("queries pass their middleware with validated parameters; a cache answers what it knows, but no read of one's own write", async () => {
  const cache = new Map<string, unknown>();
  let asked = 0;
  const app = millstream()
    .answer(Balance, () => ({ balance: ++asked }))
    .queryMiddleware(cached(cache));
  assert.deepEqual(await app.ask(Balance, { account: "a" }), { balance: 1 });
  assert.deepEqual(await app.ask(Balance, { account: "a" }), { balance: 1 });
  assert.deepEqual(await app.ask(Balance, { account: "b" }), { balance: 2 });
  assert.deepEqual(await app.ask(Balance, { account: "a" }, { after: "1" }), { balance: 3 });
  assert.deepEqual(await app.ask(Balance, { account: "a" }), { balance: 3 });
  const bad = { account: 1 } as unknown as { account: string };
  await assert.rejects(app.ask(Balance, bad), { code: "VALIDATION_FAILED" });
  assert.equal(asked, 3);
});

test("a result commits with its effects: a process that dies right after the commit leaves nothing to run again", async () => {
  const store = memoryStore();
  // Whatever was to be kept after the commit never is.
  const complete = (): Promise<void> => Promise.reject(new Error("the process is gone"));
  const dying = { ...store, idempotency: { ...store.idempotency, complete } };
  const { app, runs } = payments({ store: dying }, { once: true });
  const first = await app.dispatch(Pay, { amount: 1 }, { id: "p-1" });
  assert.deepEqual(await app.dispatch(Pay, { amount: 1 }, { id: "p-1" }), first);
  assert.deepEqual([runs.length, (await store.events.readStream("payments")).length], [1, 1]);
});
