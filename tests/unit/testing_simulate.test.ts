import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import { command, event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { saga } from "../../src/sagas/definition.ts";
import { replay, type Scenario, simulate, type SimulationReport } from "../../src/testing/mod.ts";

const Placed = event("order.placed", v.object({ orderId: v.string() }));
const Invoiced = event("invoice.raised", v.object({ orderId: v.string() }));

/** Another system: what it did, by key if it knows keys. */
function payments(): { charge: (key?: string) => void; readonly charges: string[] } {
  const charges: string[] = [];
  const charge = (key = `call ${charges.length}`): void => {
    if (!charges.includes(key)) charges.push(key);
  };
  return { charge, charges };
}

function billing(keyed: boolean): () => Scenario {
  return () => {
    const { charge, charges } = payments();
    return {
      app: ({ call, ...parts }) =>
        millstream(parts).on(Placed, { group: "billing" }, async (_, { idempotencyKey }) => {
          await call("payments", () => charge(keyed ? idempotencyKey : undefined));
        }),
      act: (app) => app.publish(Placed, { orderId: "o-1" }, { id: "m-1" }),
      check: () => assert.equal(charges.length, 1),
    };
  };
}

/** A report without what differs from run to run. */
function summary({ failures }: SimulationReport): string[] {
  return failures.map(({ what, error }) => `${what}: ${error.message.split("\n")[0]}`);
}

test("a handler that hands its idempotency key to the other system charges once, whatever fails", async () => {
  const report = await simulate(billing(true), { schedules: 5 });
  assert.deepEqual(summary(report), []);
  assert.ok(report.boundaries.includes("call payments"));
  assert.ok(report.boundaries.includes("subscription.ack"));
  assert.ok(report.boundaries.includes("broker.publish"));
  assert.equal(report.runs, 1 + report.boundaries.length * 5 + 5);
});

test("a handler that forgets the key is found: a crash after the call charges twice", async () => {
  const { failures, boundaries } = await simulate(billing(false), { schedules: 0 });
  const crash = failures.find(({ what }) => what.startsWith("crash after call payments"));
  assert.ok(crash, `only ${failures.map(({ what }) => what).join("; ")}`);
  assert.ok(
    failures.length < boundaries.length * 5,
    "what fails before the call, or after the commit, breaks nothing",
  );
  await assert.rejects(replay(billing(false), crash.replay), { message: crash.error.message });
});

test("a seeded schedule that broke something breaks it again", async () => {
  const { failures } = await simulate(billing(false), { faults: [], schedules: 25 });
  const [first] = failures;
  assert.ok(first, "none of 25 schedules found it");
  await assert.rejects(replay(billing(false), first.replay), /1/);
});

test("what a handler appends is stored once and handled once, whatever fails", async () => {
  const report = await simulate(() => {
    const mailed: string[] = [];
    return {
      app: ({ call, ...parts }) =>
        millstream(parts)
          .on(Placed, { group: "billing" }, async ({ data, id }, ctx) => {
            await ctx.append(`invoice-${data.orderId}`, [Invoiced(data, { id: `invoice-${id}` })]);
          })
          .on(Invoiced, { group: "mail" }, async ({ id }, { idempotencyKey }) => {
            await call("mail", () => void (mailed.includes(idempotencyKey) || mailed.push(idempotencyKey)));
            assert.equal(id, "invoice-m-1");
          }),
      act: (app) => app.publish(Placed, { orderId: "o-1" }, { id: "m-1" }),
      async check({ store }) {
        const stored = await store.events.readStream("invoice-o-1");
        assert.deepEqual(stored.map(({ id }) => id), ["invoice-m-1"]);
        assert.deepEqual(mailed, ["mail/invoice-m-1"]);
      },
    };
  }, { schedules: 3 });
  assert.deepEqual(summary(report), []);
  for (const boundary of ["events.append", "store.commit", "outbox.markSent", "inbox.record"]) {
    assert.ok(report.boundaries.includes(boundary), boundary);
  }
});

const Withdraw = command("account.withdraw", v.object({ account: v.string(), amount: v.number() }));
const Withdrawn = event("account.withdrawn", v.object({ account: v.string(), amount: v.number() }));
const Account = aggregate("account", {
  commands: [Withdraw],
  events: [Withdrawn],
  initial: () => ({ balance: 100 }),
  decide: {
    "account.withdraw": ({ data }, { balance }) =>
      data.amount > balance ? refuse("INSUFFICIENT_FUNDS") : [Withdrawn(data)],
  },
  evolve: { "account.withdrawn": ({ balance }, { data }) => ({ balance: balance - data.amount }) },
});

test("a command with an id of its client's takes effect once, whatever fails", async () => {
  const report = await simulate(() => ({
    app: (parts) => millstream(parts).use(Account, { id: ({ account }) => account }),
    act: (app) => app.dispatch(Withdraw, { account: "a", amount: 60 }, { id: "c-1" }),
    check: async ({ store }) => assert.equal((await store.events.readStream("account-a")).length, 1),
  }), { schedules: 5 });
  assert.deepEqual(summary(report), []);
});

test("a command without an id is found: its reply lost, the client's second one takes effect again", async () => {
  const { failures } = await simulate(() => ({
    app: (parts) => millstream(parts).use(Account, { id: ({ account }) => account }),
    act: (app) => app.dispatch(Withdraw, { account: "a", amount: 40 }),
    check: async ({ store }) => assert.equal((await store.events.readStream("account-a")).length, 1),
  }), { schedules: 0 });
  assert.ok(failures.some(({ what }) => what.startsWith("crash after events.append")));
});

const Transfer = v.object({ amount: v.number(), taken: v.optional(v.boolean()) });

function transfer(undo: "by key" | "blindly"): () => Scenario {
  return () => {
    const { charge, charges } = payments();
    const refunds = new Set<string>();
    let balance = 100;
    return {
      app: ({ call, ...parts }) =>
        millstream(parts).use(
          saga("transfer", Transfer)
            .step("take", {
              run: async ({ amount }, { idempotencyKey }) => {
                await call("bank", () => {
                  if (charges.includes(idempotencyKey)) return;
                  charge(idempotencyKey);
                  balance -= amount;
                });
              },
              undo: async ({ amount }, { idempotencyKey }) => {
                await call("bank", () => {
                  const taken = charges.includes(idempotencyKey.replace(/\/undo$/, ""));
                  if (undo === "by key" && (!taken || refunds.has(idempotencyKey))) return;
                  refunds.add(idempotencyKey);
                  balance += amount;
                });
              },
            })
            .step("give", { run: () => Promise.reject(refuse("CLOSED_ACCOUNT")) }),
        ),
      act: (app) => app.startSaga(saga("transfer", Transfer), "t-1", { amount: 30 }),
      async check({ store }) {
        assert.equal((await store.sagas.load("t-1"))?.status, "compensated");
        assert.equal(balance, 100);
      },
    };
  };
}

test("a saga whose steps and compensations know their keys keeps the balance, whatever fails", async () => {
  assert.deepEqual(summary(await simulate(transfer("by key"), { schedules: 3 })), []);
});

test("a compensation that ignores its key is found: undone twice, the balance is wrong", async () => {
  const { failures } = await simulate(transfer("blindly"), { schedules: 0 });
  assert.ok(
    failures.some(({ what, error }) => what.startsWith("crash after call bank") && /130/.test(error.message)),
  );
});

test("a scenario that is wrong without any fault is refused, not reported", async () => {
  const broken = (): Scenario => ({ ...billing(true)(), check: () => assert.fail("never right") });
  await assert.rejects(simulate(broken), /never right/);
});
