import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { command, event } from "../../src/core/definition.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import type { EventStore } from "../../src/ports/event_store.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Store } from "../../src/ports/store.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { millstream } from "../../src/app/millstream.ts";

const Reserve = command("stock.reserve", v.object({ item: v.string(), count: v.number() }));
const Reserved = event("stock.reserved", v.object({ item: v.string(), count: v.number() }), {
  version: 2,
  upcast: { 1: ({ item, amount }) => ({ item, count: amount }) },
  key: ({ item }) => item,
});
const AUDITED = event("stock.audited", v.object({}));

let decisions: number[] = [];
const Stock = aggregate("stock", {
  commands: [Reserve],
  events: [Reserved],
  initial: () => ({ left: 10 }),
  decide: {
    "stock.reserve": ({ data }, { left }) => {
      decisions.push(left);
      if (data.count === 0) return [];
      return data.count > left ? refuse("OUT_OF_STOCK") : [Reserved(data)];
    },
  },
  evolve: { "stock.reserved": ({ left }, { data }) => ({ left: left - data.count }) },
});

function stock(store: Store = memoryStore(), options: { readonly maxBytes?: number } = {}): {
  reserve: (count: number, id?: string) => Promise<{ version?: number; position?: string }>;
  store: Store;
} {
  decisions = [];
  const app = millstream({ store, limits: options }).use(Stock, { id: ({ item }) => item });
  return { store, reserve: (count, id) => app.dispatch(Reserve, { item: "x", count }, id ? { id } : {}) };
}

function withEvents(store: Store, events: Partial<EventStore>): Store {
  return { ...store, events: { ...store.events, ...events } };
}

test("a command loads, folds, decides and appends; its result says where the stream stands", async () => {
  const { reserve, store } = stock();
  assert.equal((await reserve(3)).version, 1);
  const second = await reserve(4);
  const stream = await store.events.readStream("stock-x");
  assert.deepEqual([second.version, second.position], [2, stream[1]!.position.toString()]);
  assert.deepEqual(decisions, [10, 7]);
  await assert.rejects(reserve(4), {
    code: "REFUSED",
    details: { reason: "OUT_OF_STOCK" },
    retryable: false,
  });
  assert.equal((await store.events.readStream("stock-x")).length, 2);
});

test("two commands race: the slower one decides anew on what the faster one did, and refuses", async () => {
  // Interleaving: both have loaded the empty stream; one appends; the other's append is refused as a conflict.
  const base = memoryStore();
  let loads = 0;
  let bothLoaded = (): void => {};
  const both = new Promise<void>((resolve) => bothLoaded = resolve);
  const { reserve, store } = stock(withEvents(base, {
    async readStream(...args) {
      const page = await base.events.readStream(...args);
      if (++loads === 2) bothLoaded();
      await both;
      return page;
    },
  }));
  const outcomes = await Promise.allSettled([reserve(6), reserve(6)]);
  assert.deepEqual(outcomes.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
  assert.deepEqual(decisions, [10, 10, 4]);
  assert.equal((await store.events.readStream("stock-x")).length, 1);
});

test("ten commands at once all take effect, one after another", async () => {
  const { reserve, store } = stock();
  const results = await Promise.all(Array.from({ length: 10 }, () => reserve(1)));
  assert.deepEqual(results.map(({ version }) => version).sort((a, b) => a! - b!), [
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    9,
    10,
  ]);
  await assert.rejects(reserve(1), { code: "REFUSED" });
  assert.equal((await store.events.readStream("stock-x")).length, 10);
});

test("a conflict at every try ends as CONCURRENCY_CONFLICT", async () => {
  const base = memoryStore();
  let appends = 0;
  const { reserve } = stock(withEvents(base, {
    append: async ([one]) => {
      appends++;
      await base.events.append([{ ...one!, expected: 99 }]);
      return [];
    },
  }));
  await assert.rejects(reserve(1), { code: "CONCURRENCY_CONFLICT" });
  assert.equal(appends, 10);
});

test("the same command twice has one effect and one outcome, also when others came between, and also at once", async () => {
  const { reserve, store } = stock();
  const first = await reserve(3, "c-1");
  await reserve(7, "c-2");
  assert.deepEqual(await reserve(3, "c-1"), first);
  const again = stock(store);
  const both = await Promise.allSettled([again.reserve(3, "c-1"), again.reserve(3, "c-1")]);
  assert.ok(both.every(({ status }) => status === "fulfilled"));
  const twins = stock();
  const [a, b] = await Promise.all([twins.reserve(2, "t"), twins.reserve(2, "t")]);
  assert.deepEqual(a, b);
  assert.equal((await twins.store.events.readStream("stock-x")).length, 1);
  assert.equal((await store.events.readStream("stock-x")).length, 2);
});

test("a command whose commit got no reply is looked up, not decided again", async () => {
  const base = memoryStore();
  let lost = true;
  const { reserve } = stock(withEvents(base, {
    async append(...args) {
      const result = await base.events.append(...args);
      if (!lost) return result;
      lost = false;
      throw new MillstreamError("COMMIT_INDETERMINATE", "reply lost");
    },
  }));
  assert.equal((await reserve(10)).version, 1); // deciding again would refuse
  assert.equal((await base.events.readStream("stock-x")).length, 1);
});

test("an event cannot hide the command it came from", async () => {
  const Hide = command("hide", v.object({ id: v.string() }));
  const Hidden = event("hidden", v.object({}));
  const Hider = aggregate("hider", {
    commands: [Hide],
    events: [Hidden],
    initial: () => 0,
    decide: {
      hide: (_, count) => count > 0 ? refuse("AGAIN") : [Hidden({}, { causationId: "somebody-else" })],
    },
    evolve: { hidden: (count) => count + 1 },
  });
  const app = millstream({ store: memoryStore() }).use(Hider, { id: ({ id }) => id });
  const first = await app.dispatch(Hide, { id: "1" }, { id: "c" });
  assert.deepEqual(await app.dispatch(Hide, { id: "1" }, { id: "c" }), first);
});

test("a decision without events appends nothing", async () => {
  const { reserve, store } = stock();
  assert.equal((await reserve(0)).version, 0);
  assert.equal((await store.events.readStream("stock-x")).length, 0);
});

function oldEvent(
  data: unknown,
  schemaversion = 1,
  type = "stock.reserved",
): { id: string; type: string; body: string } {
  const id = `e-${Math.random()}`;
  return {
    id,
    type,
    body: JSON.stringify({ specversion: "1.0", id, source: "s", type, schemaversion, data }),
  };
}

test("events of an older version are upcast when the aggregate is loaded", async () => {
  const { reserve, store } = stock();
  await store.events.append([{
    stream: "stock-x",
    expected: "none",
    events: [oldEvent({ item: "x", amount: 8 })],
  }]);
  await assert.rejects(reserve(3), { code: "REFUSED" });
  assert.equal((await reserve(2)).version, 2);
  assert.deepEqual(decisions, [2, 2]);
});

test("an event the aggregate does not know, or from the future, stops the load and is named", async () => {
  const { reserve, store } = stock();
  await store.events.append([{
    stream: "stock-x",
    expected: "none",
    events: [oldEvent({}, 1, AUDITED.type)],
  }]);
  await assert.rejects(reserve(1), {
    code: "HANDLER_NOT_FOUND",
    details: { stream: "stock-x", type: "stock.audited", version: 1 },
  });
  const future = stock();
  await future.store.events.append([{ stream: "stock-x", expected: "none", events: [oldEvent({}, 3)] }]);
  await assert.rejects(future.reserve(1), { code: "UNKNOWN_SCHEMA_VERSION" });
});

test("what was accepted under larger limits is still read when they are smaller", async () => {
  const { reserve, store } = stock(memoryStore(), { maxBytes: 1_000 });
  const data = { item: "x", amount: 1, note: "n".repeat(400_000) };
  await store.events.append([{ stream: "stock-x", expected: "none", events: [oldEvent(data)] }]);
  assert.equal((await reserve(1)).version, 2);
});

test("streams longer than one page are folded whole", async () => {
  const { reserve, store } = stock();
  for (let page = 0; page < 3; page++) {
    const events = Array.from({ length: 1_000 }, () => oldEvent({ item: "x", amount: 0.001 }));
    await store.events.append([{ stream: "stock-x", expected: page * 1_000, events }]);
  }
  assert.equal((await reserve(1)).version, 3_001);
  assert.ok(Math.abs(decisions[0]! - 7) < 0.001);
});
