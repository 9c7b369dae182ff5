import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import { parseEvent } from "../../src/core/codec.ts";
import { command, event, query, topic } from "../../src/core/definition.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { Store } from "../../src/ports/store.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { projection } from "../../src/sourcing/projection.ts";
import { saga } from "../../src/sagas/definition.ts";
import { until, world } from "./messaging_fixture.ts";

const Noted = event("note.made", v.object({ text: v.string() }), { key: ({ text }) => text[0] ?? "none" });
const Note = command("note.make", v.object({ text: v.string() }), { result: v.number() });
const Ask = query("note.count", v.object({ least: v.number() }), v.number());

/** A store that fails the test when anything talks to it or its broker. */
function untouchable(): Store {
  const touched = (): never => assert.fail("I/O before the input was checked");
  const forbidden = <T extends object>(): T => new Proxy({} as T, { get: () => touched });
  const store = memoryStore();
  return {
    ...store,
    events: forbidden(),
    outbox: forbidden(),
    inbox: forbidden(),
    sagas: forbidden(),
    transaction: touched,
    broker: () => ({ ...store.broker(), publish: touched, subscribe: touched }),
  };
}

test("bad input is refused with a typed error before any I/O", async () => {
  const Kept = aggregate("kept", {
    commands: [command("keep", v.object({ id: v.string() }))],
    events: [],
    initial: () => 0,
    decide: { keep: () => [] },
    evolve: {},
  });
  const app = millstream({ store: untouchable(), limits: { maxBytes: 1_000 } }).declare(Noted)
    .handle(Note, () => 1).use(Kept, { id: ({ id }) => id });
  const note = { text: "x" };
  const cases: ReadonlyArray<readonly [() => Promise<unknown>, string]> = [
    [() => app.publish(Noted, { text: 5 } as never), "VALIDATION_FAILED"],
    [() => app.publish(Noted, { text: "x".repeat(1_000) }), "PAYLOAD_TOO_LARGE"],
    [() => app.publish(event("any", v.any()), { at: new Date() }), "UNSERIALIZABLE"],
    [
      () => app.publish(event("any", v.any()), JSON.parse("[".repeat(70) + "]".repeat(70))),
      "PAYLOAD_TOO_DEEP",
    ],
    [() => app.publish(Noted, note, { id: "" }), "INVALID_ARGUMENT"],
    [() => app.publish(Noted, note, { key: "a\u0000" }), "INVALID_ARGUMENT"],
    [() => app.publish(Noted, note, { time: NaN }), "INVALID_ARGUMENT"],
    [() => app.publish(Noted, note, { time: 1e18 }), "INVALID_ARGUMENT"],
    [() => app.publish(Noted, note, { headers: { "Bad-Name": "x" } }), "INVALID_ARGUMENT"],
    [() => app.publish(Noted, note, { headers: { ok: "line\nbreak" } }), "INVALID_ARGUMENT"],
    [() => app.dispatch(Note, {} as never), "VALIDATION_FAILED"],
    [() => app.dispatch(command("nobody", v.any()), 1), "HANDLER_NOT_FOUND"],
    [() => app.dispatch(Kept.commands[0]!, { id: "a\u0000b" }), "INVALID_ARGUMENT"],
    [() => app.ask(query("nobody", v.any()), 1), "HANDLER_NOT_FOUND"],
    [() => app.ask(Ask, { least: 1 }, { after: "x" }), "INVALID_ARGUMENT"],
    [() => app.publishEvents("nowhere", []), "UNKNOWN_TOPIC"],
    [() => app.publishEvents("note", [outside("other.type", {})]), "VALIDATION_FAILED"],
    [() => app.publishEvents("note", [outside("note.made", { text: 5 })]), "VALIDATION_FAILED"],
    [() => app.appendEvents("s", [outside("other.type", {})], "any"), "VALIDATION_FAILED"],
    [() => app.startSaga(saga("s", v.object({ a: v.number() })), "1", {} as never), "VALIDATION_FAILED"],
    [() => app.startSaga(saga("s", v.any()), "\n", {}), "INVALID_ARGUMENT"],
  ];
  for (const [call, code] of cases) {
    await assert.rejects(call, (error: MillstreamError) => {
      assert.equal(error.code, code, `${call}: ${error.stack}`);
      assert.equal(error.retryable, false);
      return true;
    });
  }
});

function outside(type: string, data: unknown): ReturnType<typeof parseEvent> {
  return parseEvent(JSON.stringify({ specversion: "1.0", id: "e-1", source: "/elsewhere", type, data }));
}

test("options out of range are refused when they are given", () => {
  const app = millstream();
  for (const options of [{ concurrency: 0 }, { timeoutMs: 0 }, { leaseMs: 1 }, { retry: { attempts: 0 } }]) {
    assert.throws(() => app.on(Noted, { group: "g", ...options }, () => {}), { code: "INVALID_ARGUMENT" });
  }
  assert.throws(() => app.on(Noted, { group: "bad group" }, () => {}), { code: "INVALID_ARGUMENT" });
  assert.throws(() => millstream({ retry: { factor: 0 } }), { code: "INVALID_ARGUMENT" });
  assert.throws(() => millstream({ source: "" }), { code: "INVALID_ARGUMENT" });
  assert.equal(app.declared.topics.size, 0, "what was refused leaves nothing behind");
});

test("a second handler is refused where exactly one may be", () => {
  const Count = projection("count", { on: [Noted] }, () => {});
  const Tour = saga("tour", v.any());
  const app = millstream().handle(Note, () => 1).answer(Ask, () => 1).on(Noted, { group: "g" }, () => {})
    .on(topic("note"), { group: "g" }, () => {}).use(Count).use(Tour);
  const code = "HANDLER_ALREADY_REGISTERED";
  assert.throws(() => app.handle(Note, () => 1), { code });
  assert.throws(() => app.answer(Ask, () => 1), { code });
  assert.throws(() => app.on(Noted, { group: "g" }, () => {}), { code });
  assert.throws(() => app.on(topic("note"), { group: "g" }, () => {}), { code });
  assert.throws(() => app.use(Count), { code });
  assert.throws(() => app.use(Tour), { code });
  assert.throws(() => app.declare(event("note.made", v.any())), { code: "INVALID_ARGUMENT" });
});

test("an aggregate's command cannot promise an answer, which aggregates do not give", () => {
  const Promising = aggregate("promising", {
    commands: [Note],
    events: [],
    initial: () => 0,
    decide: { "note.make": () => [] },
    evolve: {},
  });
  assert.throws(() => millstream().use(Promising, { id: () => "1" }), { code: "INVALID_ARGUMENT" });
});

test("events from outside keep their data byte for byte; an open topic takes any type", async () => {
  const app = millstream().declare(Noted, topic("open"));
  const body =
    '{"specversion":"1.0","id":"e-1","source":"/x","type":"note.made","data": {"text" : "\\u0061b", "more":1.0} }';
  assert.deepEqual(await app.publishEvents("note", [parseEvent(body)]), { ids: ["e-1"] });
  await app.publishEvents("open", [outside("whatever", [1])]);
  const [note] = (await app.broker.log!.read("note", "start", { limit: 5, waitMs: 0 })).entries;
  assert.ok(note!.body.endsWith('"data":{"text" : "\\u0061b", "more":1.0}}'), note!.body);
  assert.equal(note!.key, "a");
  assert.equal(parseEvent(note!.body).message.correlationId, "e-1");
  assert.equal((await app.broker.log!.read("open", "start", { limit: 5, waitMs: 0 })).entries.length, 1);
  await app.close();
});

test("an indeterminate publish names the ids to publish again with", async () => {
  const store = memoryStore();
  const sent: EncodedMessage[] = [];
  const broker = {
    ...store.broker(),
    publish: (_: string, messages: readonly EncodedMessage[]) => {
      sent.push(...messages);
      return Promise.reject(
        new MillstreamError("PUBLISH_INDETERMINATE", "reply lost", { details: { a: 1 } }),
      );
    },
  };
  const app = millstream({ store, broker });
  await assert.rejects(app.publish(Noted, { text: "x" }), (error: MillstreamError) => {
    assert.deepEqual(error.details, { a: 1, ids: [sent[0]!.id] });
    return error.code === "PUBLISH_INDETERMINATE" && error.retryable;
  });
});

test("middleware wraps every command, the first added outermost, and may refuse", async () => {
  const steps: string[] = [];
  const app = millstream().handle(Note, ({ data }) => (steps.push("handler"), data.text.length));
  for (const name of ["outer", "inner"]) {
    app.middleware((next) => async (message, signal) => {
      steps.push(`${name} in`);
      if (message.userId === "nobody") throw refuse("NOT_SIGNED_IN");
      const result = await next(message, signal);
      steps.push(`${name} out`);
      return result;
    });
  }
  assert.equal((await app.dispatch(Note, { text: "four" })).result, 4);
  assert.deepEqual(steps, ["outer in", "inner in", "handler", "inner out", "outer out"]);
  await assert.rejects(app.dispatch(Note, { text: "x" }, { userId: "nobody" }), { code: "REFUSED" });
});

test("an answer that does not match its schema is refused, and the command's effects are not committed", async () => {
  const app = millstream({ store: memoryStore() }).answer(Ask, () => "many" as never)
    .handle(Note, async ({ data }, ctx) => {
      await ctx.append("notes", [Noted(data)]);
      return (data.text === "good" ? 1 : "one") as number;
    });
  await assert.rejects(app.dispatch(Note, { text: "bad" }), {
    code: "VALIDATION_FAILED",
    message: /result of command/,
  });
  await assert.rejects(app.ask(Ask, { least: 1 }), { code: "VALIDATION_FAILED", message: /answer to query/ });
  assert.equal((await app.store.events.readStream("notes")).length, 0);
  const { result, position } = await app.dispatch(Note, { text: "good" });
  assert.equal(result, 1);
  assert.equal(position, (await app.store.events.readStream("notes"))[0]!.position.toString());
});

test("a command repeated under its id makes the same ids again", async () => {
  const app = millstream({ store: memoryStore() }).handle(Note, async ({ data }, ctx) => {
    await ctx.append("notes", [Noted(data)]);
    return 1;
  });
  await app.dispatch(Note, { text: "x" }, { id: "c-1" });
  await app.dispatch(Note, { text: "x" }, { id: "c-1" });
  assert.equal((await app.store.events.readStream("notes")).length, 1);
});

test("health: not ready before the start and after the end, ready between; the loops are named", async () => {
  const { app, clock } = world();
  app.on(Noted, { group: "g" }, () => {}).use(projection("count", { on: [Noted] }, () => {})).use(
    saga("tour", v.any()),
  );
  assert.deepEqual([(await app.health()).ready, (await app.health()).store], [false, "ok"]);
  await app.start();
  await clock.advance(100);
  const { ready, loops, broker } = await app.health();
  assert.deepEqual([ready, broker], [true, "ok"]);
  const names = ["consumer note/g", "heartbeat note/g", "projection count", "relay", "sagas"];
  assert.deepEqual(loops.map(({ name }) => name).sort(), names);
  await app.close();
  const closed = await app.health();
  assert.equal(closed.ready, false);
  assert.match(closed.store, /closed/);
});

test("close is idempotent, leaves no timer, and nothing works after it", async () => {
  const { app, clock } = world();
  app.on(Noted, { group: "g" }, () => {}).handle(Note, () => 1).use(
    projection("count", { on: [Noted] }, () => {}),
  );
  await app.start();
  await clock.advance(100);
  const [first, second] = [app.close(), app.close()];
  assert.equal(first, second);
  await first;
  await app[Symbol.asyncDispose]();
  assert.equal(clock.pending, 0);
  await assert.rejects(app.start(), { code: "CLOSED" });
  await assert.rejects(app.publish(Noted, { text: "x" }), { code: "CLOSED" });
  assert.throws(() => app.on(Noted, { group: "h" }, () => {}), { code: "INVALID_ARGUMENT" });
});

test("an application closed before it was used stays closed", async () => {
  const app = millstream();
  await app.close();
  await assert.rejects(app.publish(Noted, { text: "x" }), { code: "CLOSED" });
  await assert.rejects(app.start(), { code: "CLOSED" });
});

test("a signal closes the application, also one that aborted before the start", async () => {
  for (const early of [true, false]) {
    const { app } = world();
    const controller = new AbortController();
    if (early) controller.abort();
    await app.start({ signal: controller.signal });
    controller.abort();
    await app.close();
    assert.equal((await app.health()).ready, false);
  }
});

test("a start that failed can be repeated", async () => {
  const store = memoryStore();
  let down = true;
  const app = millstream({
    store: {
      ...store,
      start: () => down ? Promise.reject(new MillstreamError("UNAVAILABLE", "down")) : store.start(),
    },
  });
  await assert.rejects(app.start(), { code: "UNAVAILABLE" });
  assert.equal((await app.health()).ready, false);
  down = false;
  await app.start();
  assert.equal((await app.health()).ready, true);
  await app.close();
});

test("a part that fails to close does not keep the others open", async () => {
  const store = memoryStore();
  const broker = store.broker();
  const app = millstream({
    store,
    broker: { ...broker, [Symbol.asyncDispose]: () => Promise.reject(new Error("broker stuck")) },
  });
  await app.start();
  await assert.rejects(app.close(), { message: "broker stuck" });
  await assert.rejects(store.ping(), { code: "CLOSED" });
});

test("two sagas start on the same event, each once, however often the event comes", async () => {
  const { app, clock, store } = world();
  const runs: string[] = [];
  for (const name of ["one", "two"]) {
    app.use(saga(name, v.object({ text: v.string() })).step("a", { run: () => void runs.push(name) }), {
      startOn: Noted,
    });
  }
  await app.start();
  const { id } = await app.publish(Noted, { text: "x" });
  await until(clock, () => runs.length === 2);
  await clock.advance(1_000);
  assert.deepEqual(runs.sort(), ["one", "two"]);
  const instances = await store.sagas.list({ limit: 10 });
  assert.deepEqual(instances.map((one) => one.id), [`one-${id}`, `two-${id}`]);
  assert.ok(instances.every(({ status, correlationId }) => status === "completed" && correlationId === id));
  await app.close();
});

test("a saga sends commands to aggregates, and a query reads what they wrote", async () => {
  const { app, clock } = world();
  const Place = command("seat.take", v.object({ seat: v.string() }));
  const Taken = event("seat.taken", v.object({ seat: v.string() }));
  const Seat = aggregate("seat", {
    commands: [Place],
    events: [Taken],
    initial: () => false,
    decide: { "seat.take": ({ data }, taken) => taken ? refuse("TAKEN") : [Taken(data)] },
    evolve: { "seat.taken": () => true },
  });
  const seats: string[] = [];
  const Seats = projection(
    "seats",
    { on: [Taken] },
    (events) => void seats.push(...events.map(({ data }) => data.seat)),
  );
  app.use(Seat, { id: ({ seat }) => seat }).use(Seats).answer(Ask, { after: [Seats] }, () => seats.length)
    .use(
      saga("booking", v.object({ seat: v.string() })).step("take", {
        run: (data, ctx) => void ctx.dispatch(Place, data),
      }),
    );
  await app.start();
  const first = await app.dispatch(Place, { seat: "1" });
  const asked = app.ask(Ask, { least: 1 }, { after: first });
  await until(clock, () => seats.length === 1);
  await clock.advance(200);
  assert.equal(await asked, 1);
  await app.startSaga(
    saga("booking", v.object({ seat: v.string() })),
    "b-1",
    { seat: "2" },
  );
  await until(clock, () => seats.length === 2);
  assert.deepEqual(seats, ["1", "2"]);
  await app.close();
});
