/** Projections that are part of the transaction of each append. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream, type MillstreamOptions } from "../../src/app/millstream.ts";
import type { Millstream } from "../../src/app/application.ts";
import { parseEvent } from "../../src/core/codec.ts";
import { command, event, query } from "../../src/core/definition.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Store } from "../../src/ports/store.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { type Projection, projection } from "../../src/sourcing/projection.ts";

const Take = command("seat.take", v.object({ seat: v.string(), by: v.string() }));
const Book = command("seat.book", v.object({ seat: v.string() }));
const Taken = event("seat.taken", v.object({ seat: v.string(), by: v.string() }));
const HowMany = query("seat.how-many", v.object({}));

const Seat = aggregate("seat", {
  commands: [Take],
  events: [Taken],
  initial: () => 0,
  decide: { "seat.take": ({ data }) => [Taken(data), Taken({ ...data, by: `${data.by}'s guest` })] },
  evolve: { "seat.taken": (count) => count + 1 },
});

function theatre(options: MillstreamOptions = {}): {
  readonly app: Millstream;
  readonly applied: string[];
  readonly store: Store;
  readonly Seats: Projection;
} {
  const store = options.store ?? memoryStore();
  const applied: string[] = [];
  const Seats = projection(
    "seats",
    { on: [Taken], inline: true, create: () => applied.push("create") },
    (events) => {
      applied.push(...events.map(({ data, version, position }) => `${data.by} ${version} ${position}`));
      if (events.some(({ data }) => data.by === "nobody")) throw new Error("no such guest");
    },
  );
  const app = millstream({ ...options, store }).use(Seat, { id: ({ seat }) => seat }).use(Seats)
    .handle(Book, async ({ data }, ctx) => {
      await ctx.append(`seat-${data.seat}`, [Taken({ seat: data.seat, by: "handler" })]);
      await ctx.append(`seat-${data.seat}`, [Taken({ seat: data.seat, by: data.seat })]);
    });
  return { app, applied, store, Seats };
}

test("an aggregate's events, a handler's and those from outside are applied when the append resolves, once", async () => {
  const { app, applied, Seats } = theatre();
  await app.dispatch(Take, { seat: "1", by: "ann" }, { id: "c-1" });
  assert.deepEqual(applied, ["create", "ann 1 1", "ann's guest 2 2"]);
  await app.dispatch(Take, { seat: "1", by: "ann" }, { id: "c-1" });
  assert.equal(applied.length, 3, "the same command again");
  await app.dispatch(Book, { seat: "2" });
  assert.deepEqual(applied.slice(3), ["handler 1 3", "2 2 4"]);
  const outside = parseEvent(
    '{"specversion":"1.0","id":"e-1","source":"/x","type":"seat.taken","data":{"seat":"3","by":"web"}}',
  );
  await app.appendEvents("seat-3", [outside], 0);
  await app.appendEvents("seat-3", [outside], 0);
  assert.deepEqual(applied.slice(5), ["web 1 5"]);
  app.answer(HowMany, { after: [Seats] }, () => applied.length);
  assert.equal(await app.ask(HowMany, {}, { after: "5", waitMs: 0 }), 6, "never behind");
  assert.deepEqual((await app.projections.list()).map(({ state, lag }) => [state, lag]), [["inline", 0n]]);
  await assert.rejects(app.projections.rebuild("seats"), { code: "UNSUPPORTED" });
});

test("an append that its projection fails is not made, and nothing is published", async () => {
  const { app, store, applied } = theatre();
  await assert.rejects(app.dispatch(Take, { seat: "1", by: "nobody" }), /no such guest/);
  await assert.rejects(app.dispatch(Book, { seat: "nobody" }), /no such guest/);
  assert.deepEqual(await store.events.readStream("seat-1"), []);
  assert.deepEqual(await store.events.readStream("seat-nobody"), []);
  assert.deepEqual(await store.outbox.pending(10), []);
  assert.equal(applied.length, 5);
});

test("the same append from two callers at once is applied once", async () => {
  const { app, applied } = theatre();
  const outside = parseEvent(
    '{"specversion":"1.0","id":"e-1","source":"/x","type":"seat.taken","data":{"seat":"3","by":"web"}}',
  );
  const results = await Promise.all([1, 2, 3].map(() => app.appendEvents("seat-3", [outside], "any")));
  assert.deepEqual(new Set(results.map(({ position }) => position)), new Set([1n]));
  assert.deepEqual(applied, ["create", "web 1 1"]);
});

test("a store that is down when the first append comes is asked again by the next one", async () => {
  const base = memoryStore();
  let down = true;
  const store: Store = {
    ...base,
    projections: {
      ...base.projections,
      load: (name) => down ? Promise.reject(new Error("down")) : base.projections.load(name),
    },
  };
  const { app, applied } = theatre({ store });
  await assert.rejects(app.dispatch(Take, { seat: "1", by: "ann" }), /down/);
  down = false;
  await app.dispatch(Take, { seat: "1", by: "ann" });
  assert.equal(applied.length, 3);
});

test("inline projections work in an application without a store of its own", async () => {
  const applied: string[] = [];
  const app = millstream().use(Seat, { id: ({ seat }) => seat }).use(
    projection("seats", { on: [Taken], inline: true }, (events) => {
      applied.push(...events.map(({ data }) => data.by));
    }),
  );
  await app.start();
  await app.dispatch(Take, { seat: "1", by: "ann" });
  assert.deepEqual(applied, ["ann", "ann's guest"]);
  assert.deepEqual((await app.health()).loops.map(({ name }) => name), ["relay"]);
  await app.close();
});
