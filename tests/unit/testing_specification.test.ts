import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import { command, event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { projection } from "../../src/sourcing/projection.ts";
import { given, memoryStore, settled, virtualClock } from "../../src/testing/mod.ts";

const Open = command("account.open", v.object({ id: v.string() }));
const Withdraw = command("account.withdraw", v.object({ id: v.string(), amount: v.number() }));
const Opened = event("account.opened", v.object({ id: v.string() }));
const Withdrawn = event("account.withdrawn", v.object({ id: v.string(), amount: v.number() }));
const Account = aggregate("account", {
  commands: [Open, Withdraw],
  events: [Opened, Withdrawn],
  initial: () => ({ open: false, balance: 0 }),
  decide: {
    "account.open": ({ data }, { open }) => open ? [] : [Opened(data)],
    "account.withdraw": ({ data }, { open, balance }) => {
      if (!open) return refuse("NO_ACCOUNT");
      return data.amount > balance ? refuse("INSUFFICIENT_FUNDS") : [Withdrawn(data)];
    },
  },
  evolve: {
    "account.opened": () => ({ open: true, balance: 100 }),
    "account.withdrawn": (state, { data }) => ({ ...state, balance: state.balance - data.amount }),
  },
});
const opened = Opened({ id: "a" });
const withdraw = (amount: number): { id: string; amount: number } => ({ id: "a", amount });

test("a specification that is met passes: events, no events, a refusal", async () => {
  await given(Account, opened).when(Withdraw, withdraw(60)).then([Withdrawn(withdraw(60))]);
  await given(Account, opened).when(Open, { id: "a" }).then([]);
  await given(Account).when(Withdraw, withdraw(1)).then(refuse("NO_ACCOUNT"));
  const history = [opened, Withdrawn(withdraw(60))];
  await given(Account, ...history).when(Withdraw, withdraw(60)).then(refuse("INSUFFICIENT_FUNDS"));
  assert.deepEqual(await given(Account, opened).when(Withdraw, withdraw(60)).state(), {
    open: true,
    balance: 40,
  });
});

test("a specification that is not met says what came instead", async () => {
  const when = given(Account, opened).when(Withdraw, withdraw(60));
  await assert.rejects(when.then([Withdrawn(withdraw(61))]), /differs at \.0\.data\.amount/);
  await assert.rejects(when.then([]), /events/);
  await assert.rejects(
    when.then(refuse("NO_ACCOUNT")),
    /expected refusal NO_ACCOUNT, but it caused account\.withdrawn/,
  );
  const refused = given(Account).when(Withdraw, withdraw(60));
  await assert.rejects(refused.then(refuse("OTHER")), /expected refusal OTHER, got refusal NO_ACCOUNT/);
  await assert.rejects(refused.then([]), /expected no events, but it was refused: refusal NO_ACCOUNT/);
  await assert.rejects(refused.state(), { code: "REFUSED" });
});

test("data that is not valid, or would not survive being stored, fails the specification", async () => {
  const bad = { id: 1 } as unknown as { id: string };
  await assert.rejects(given(Account).when(Open, bad).then([]), { code: "VALIDATION_FAILED" });
  await assert.rejects(given(Account, Opened(bad)).when(Open, { id: "a" }).then([]), {
    code: "VALIDATION_FAILED",
  });
  const huge = given(Account, opened).when(Withdraw, withdraw(-Infinity));
  await assert.rejects(huge.then([Withdrawn(withdraw(-Infinity))]), { code: "UNSERIALIZABLE" });
});

test("a specification that is awaited without .then(expected) rejects, as it would test nothing", async () => {
  const when = given(Account).when(Open, { id: "a" });
  await assert.rejects(Promise.resolve(when as unknown), { code: "INVALID_ARGUMENT" });
});

test("settled waits for retries, projections and what handlers publish, in no time on a virtual clock", async () => {
  const clock = virtualClock();
  await using store = memoryStore({ clock });
  const tries: number[] = [];
  const seen: string[] = [];
  const Seen = projection("seen", { on: [Opened] }, (events) => {
    seen.push(...events.map(({ data }) => data.id));
  });
  await using app = millstream({ store, clock })
    .use(Account, { id: ({ id }) => id })
    .use(Seen)
    .on(Opened, { group: "mail", retry: { attempts: 3, baseMs: 60_000 } }, () => {
      if (tries.push(clock.now()) < 3) throw new Error("not yet");
    });
  await app.start();
  await app.dispatch(Open, { id: "a" });
  await settled(app, { clock });
  assert.equal(tries.length, 3);
  assert.deepEqual(seen, ["a"]);
});

test("settled says what does not come to rest", async () => {
  const clock = virtualClock();
  await using store = memoryStore({ clock });
  await using app = millstream({ store, clock }).on(Opened, { group: "slow" }, () => new Promise(() => {}));
  await app.start();
  await app.publish(Opened, { id: "a" });
  await assert.rejects(
    settled(app, { clock, withinMs: 20_000 }),
    /Not settled within 20000 ms: group "slow" on topic "account" has 0 ready, 1 in flight, 0 delayed/,
  );
  const closing = app.close({ graceMs: 0 });
  await clock.advance(1_000);
  await closing;
});
