/** Aggregates with snapshots: as fast as a short stream, and never other than their events say. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import type { Millstream } from "../../src/app/application.ts";
import { command, event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Snapshot } from "../../src/ports/snapshots.ts";
import type { Store } from "../../src/ports/store.ts";
import { type Aggregate, aggregate } from "../../src/sourcing/aggregate.ts";

const Deposit = command("account.deposit", v.object({ amount: v.number() }));
const Close = command("account.close", v.object({}));
const Deposited = event("account.deposited", v.object({ amount: v.number() }));
const Closed = event("account.closed", v.object({}));

interface AccountState {
  readonly sum: number;
  readonly status: "open" | "closed";
}

function account(version = 1, every = 10, factor = 1): Aggregate<AccountState> {
  return aggregate("account", {
    commands: [Deposit, Close],
    events: [Deposited, Closed],
    state: v.object({ sum: v.number(), status: v.picklist(["open", "closed"]) }),
    initial: () => ({ sum: 0, status: "open" }),
    decide: {
      "account.deposit": ({ data }, { status }) => status === "open" ? [Deposited(data)] : refuse("CLOSED"),
      "account.close": () => [Closed({})],
    },
    evolve: {
      "account.deposited": ({ sum, status }, { data }) => ({ sum: sum + data.amount * factor, status }),
      "account.closed": ({ sum }) => ({ sum, status: "closed" }),
    },
    snapshots: { every, version },
  });
}

interface Bank {
  readonly app: Millstream;
  readonly store: Store;
  readonly seen: Observation[];
  /** How many events were read since the last call. */
  read(): number;
  saved: Snapshot | undefined;
  deposit(id?: string): Promise<{ readonly version?: number }>;
}

function bank(Account: Aggregate<AccountState> = account(), base: Store = memoryStore()): Bank {
  let count = 0;
  const seen: Observation[] = [];
  const result: { saved: Snapshot | undefined } = { saved: undefined };
  const store: Store = {
    ...base,
    events: {
      ...base.events,
      async readStream(...call) {
        const page = await base.events.readStream(...call);
        count += page.length;
        return page;
      },
    },
    snapshots: {
      ...base.snapshots,
      async save(snapshot) {
        result.saved = snapshot;
        await base.snapshots.save(snapshot);
      },
    },
  };
  const app = millstream({ store, observer: (one) => void seen.push(one) }).use(Account, { id: () => "1" });
  return Object.assign(result, {
    app,
    store: base,
    seen,
    read() {
      const before = count;
      count = 0;
      return before;
    },
    deposit: (id?: string) => app.dispatch(Deposit, { amount: 1 }, id ? { id } : {}),
  });
}

const ignored = (seen: readonly Observation[]): string[] =>
  seen.flatMap((one) => one.kind === "snapshot-ignored" ? [one.reason] : []);

test("a stream with a snapshot is read from there, and a new one is made every so many events", async () => {
  const { app, deposit, read, seen } = bank();
  for (let n = 0; n < 35; n++) await deposit();
  read();
  const { state, version } = await app.load(account(), "1");
  assert.deepEqual([state, version], [{ sum: 35, status: "open" }, 35]);
  assert.equal(read(), 6, "the snapshot's own event, to check it, and the five after it");
  await deposit();
  assert.equal(read() <= 7, true);
  assert.deepEqual(ignored(seen), []);
});

test("snapshot and tail are what all events are, whatever the lengths", async () => {
  for (const every of [1, 2, 3, 7]) {
    const Account = account(1, every);
    const { app, deposit, store } = bank(Account);
    const plain = { ...Account, snapshots: undefined };
    for (let n = 1; n <= 15; n++) {
      await deposit();
      const full = await millstream({ store }).load(plain, "1");
      assert.deepEqual((await app.load(Account, "1")).state, full.state, `every ${every}, after ${n}`);
    }
  }
});

test("a repeated command whose events lie before the snapshot has its earlier outcome, also if it would be refused now", async () => {
  const { app, deposit, store } = bank();
  const first = await deposit("c-1");
  for (let n = 0; n < 20; n++) await deposit();
  await app.dispatch(Close, {});
  assert.deepEqual(await deposit("c-1"), first);
  await assert.rejects(deposit("c-2"), { code: "REFUSED" });
  assert.equal((await store.events.readStream("account-1")).length, 22);
});

const BAD: ReadonlyArray<
  readonly [what: string, spoil: (snapshot: Snapshot) => Partial<Snapshot>, reason: RegExp]
> = [
  ["is not JSON", () => ({ state: '{"sum":1' }), /JSON/i],
  ["does not match the state's schema", () => ({ state: '{"sum":"1","status":"open"}' }), /sum/],
  [
    "was made after an event that another one has replaced",
    () => ({ eventId: "e-other" }),
    /expected event "e-other"/,
  ],
  ["is ahead of the stream", () => ({ version: 99 }), /version 99 of the stream is not there/],
];

for (const [what, spoil, reason] of BAD) {
  test(`a snapshot that ${what} is left aside, reported, and replaced`, async () => {
    const made = bank();
    for (let n = 0; n < 12; n++) await made.deposit();
    await made.store.snapshots.save({
      ...made.saved!,
      state: '{"sum":1000,"status":"open"}',
      ...spoil(made.saved!),
    });
    made.seen.length = 0;
    assert.deepEqual((await made.app.load(account(), "1")).state, { sum: 12, status: "open" });
    assert.equal(ignored(made.seen).length, 1);
    assert.match(ignored(made.seen)[0]!, reason);
    made.read();
    assert.equal((await made.app.load(account(), "1")).state.sum, 12);
    assert.equal(made.read(), 1, "a new one was made");
  });
}

test("a store that has no snapshots to give does not keep commands from being handled", async () => {
  const base = memoryStore();
  const down = (): Promise<never> => Promise.reject(new Error("snapshots are down"));
  const { deposit, seen } = bank(account(1, 1), { ...base, snapshots: { load: down, save: down } });
  for (let n = 1; n <= 3; n++) assert.equal((await deposit()).version, n);
  assert.deepEqual(new Set(ignored(seen)), new Set(["snapshots are down"]));
});

test("a changed fold does not see the snapshots of the other, nor does another snapshot version", async () => {
  const base = memoryStore();
  const first = bank(account(), base);
  for (let n = 0; n < 12; n++) await first.deposit();
  assert.equal((await bank(account(), base).app.load(account(), "1")).state.sum, 12);

  const doubled = account(2, 10, 2); // the same source text, but another factor: the version says so
  assert.equal((await bank(doubled, base).app.load(doubled, "1")).state.sum, 24);
  const other = aggregate("account", {
    commands: [],
    events: [Deposited, Closed],
    initial: () => ({ count: 0 }),
    decide: {},
    evolve: {
      "account.deposited": ({ count }) => ({ count: count + 1 }),
      "account.closed": (state) => state,
    },
    snapshots: { every: 10 },
  });
  assert.deepEqual((await millstream({ store: base }).load(other, "1")).state, { count: 12 });
  assert.deepEqual((await first.app.load(account(), "1")).state, { sum: 12, status: "open" });
  assert.throws(() => account(1, 0), { code: "INVALID_ARGUMENT" });
});

test("a state that JSON cannot carry is reported, and the aggregate goes on without snapshots", async () => {
  const Dated = aggregate("account", {
    commands: [Deposit],
    events: [Deposited],
    initial: () => ({ at: new Date(0), sum: 0 }),
    decide: { "account.deposit": ({ data }) => [Deposited(data)] },
    evolve: { "account.deposited": ({ at, sum }, { data }) => ({ at, sum: sum + data.amount }) },
    snapshots: { every: 1 },
  });
  const seen: Observation[] = [];
  const app = millstream({ observer: (one) => void seen.push(one) }).use(Dated, { id: () => "1" });
  for (let n = 0; n < 3; n++) await app.dispatch(Deposit, { amount: 1 });
  assert.equal((await app.load(Dated, "1")).state.sum, 3);
  assert.match(ignored(seen)[0]!, /Date/);
});

test("the state's type needs no annotation: it is what the state is at first", async () => {
  const Lamp = aggregate("lamp", {
    commands: [],
    events: [Closed],
    initial: () => ({ status: "on", watts: 5 }),
    decide: {},
    evolve: { "account.closed": (state) => ({ ...state, status: "off" }) },
  });
  const app = millstream();
  await app.append("lamp-1", [Closed({})]);
  const { status, watts } = (await app.load(Lamp, "1")).state;
  assert.deepEqual([status, watts], ["off", 5]);
});
