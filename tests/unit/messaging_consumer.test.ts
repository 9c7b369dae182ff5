import assert from "node:assert/strict";
import { test } from "node:test";
import { topic } from "../../src/core/definition.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import { gate, Keyed, patched, Ping, Pong, world } from "./messaging_fixture.ts";

test("no more handlers run at once than the concurrency allows, and all messages are handled", async () => {
  const { app, clock } = world();
  let running = 0;
  let most = 0;
  let handled = 0;
  app.on(Ping, { group: "g", concurrency: 3 }, async () => {
    most = Math.max(most, ++running);
    await new Promise<void>((resolve) => clock.after(10, resolve));
    running--;
    handled++;
  });
  await app.start();
  for (let n = 0; n < 20; n++) await app.publish(Ping, { n });
  await clock.advance(200);
  assert.deepEqual([most, handled], [3, 20]);
  await app.close();
});

test("messages of a key keep their order through retries, and other keys do not wait for it", async () => {
  const { app, clock } = world();
  const seen: string[] = [];
  app.on(Keyed, { group: "g", concurrency: 4, retry: { baseMs: 1_000 } }, ({ data }, { attempt }) => {
    if (data.key === "a" && data.n === 1 && attempt < 3) throw new Error("not yet");
    seen.push(`${data.key}${data.n}`);
  });
  await app.start();
  for (const [key, n] of [["a", 1], ["a", 2], ["b", 1], ["a", 3], ["b", 2]] as const) {
    await app.publish(Keyed, { key, n });
  }
  await clock.advance(10);
  assert.deepEqual(seen, ["b1", "b2"]);
  await clock.advance(10_000);
  assert.deepEqual(seen, ["b1", "b2", "a1", "a2", "a3"]);
  await app.close();
});

test("a message that fails twice is handled at its third try, after growing delays", async () => {
  const { app, clock, of } = world();
  const tries: number[] = [];
  app.on(Ping, { group: "g", retry: { baseMs: 200 } }, (_, { attempt }) => {
    tries.push(clock.monotonic());
    if (attempt < 3) throw new Error("not yet");
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(1_000);
  assert.deepEqual(tries, [0, 100, 300]); // half of 200, then half of 400
  assert.deepEqual(of("retried").map(({ attempt, delayMs }) => [attempt, delayMs]), [[1, 100], [2, 200]]);
  assert.deepEqual(of("handled").map(({ attempt }) => attempt), [3]);
  await app.close();
});

test("when the attempts are used up, the dead letter has the original bytes, the error and its stack", async () => {
  const { app, clock, of } = world();
  app.on(Ping, { group: "g", retry: { attempts: 3, baseMs: 1 } }, function brokenHandler() {
    throw new TypeError("no way");
  });
  await app.start();
  const { id } = await app.publish(Ping, { n: 1 }, { key: "k", headers: { tenant: "t" } });
  await clock.advance(1_000);
  const [letter, ...others] = await app.broker.deadLetters.list({ group: "g" }, { limit: 10 });
  assert.equal(others.length, 0);
  assert.deepEqual([letter!.id, letter!.attempts, letter!.topic, letter!.key], [id, 3, "ping", "k"]);
  const page = await app.broker.log!.read("ping", "start", { limit: 1, waitMs: 0 });
  assert.equal(letter!.body, page.entries[0]!.body);
  assert.deepEqual([letter!.failure.error, letter!.failure.message], ["TypeError", "no way"]);
  assert.match(letter!.failure.stack!, /brokenHandler/);
  assert.equal(of("dead-lettered").length, 1);
  await app.close();
});

for (
  const [what, thrown, code] of [
    ["a refusal", () => refuse("NO_STOCK"), "REFUSED"],
    [
      "an error that says it is not retryable",
      () => Object.assign(new Error("x"), { retryable: false }),
      "Error",
    ],
    ["an invalid argument", () => new MillstreamError("INVALID_ARGUMENT", "x"), "INVALID_ARGUMENT"],
  ] as const
) {
  test(`${what} is a dead letter at the first try`, async () => {
    const { app, clock, of } = world();
    app.on(Ping, { group: "g" }, () => {
      throw thrown();
    });
    await app.start();
    await app.publish(Ping, { n: 1 });
    await clock.advance(60_000);
    const [letter] = await app.broker.deadLetters.list({}, { limit: 10 });
    assert.deepEqual([letter!.attempts, letter!.failure.error, of("retried").length], [1, code, 0]);
    await app.close();
  });
}

for (
  const [what, body, code] of [
    ["bytes that are no message", "\u0000{not json", "MALFORMED_MESSAGE"],
    ["data that does not match the schema", bodyOf({ n: "one" }), "VALIDATION_FAILED"],
    ["a schema version from the future", bodyOf({ n: 1 }, 9), "UNKNOWN_SCHEMA_VERSION"],
    ["data nested too deep", bodyOf(JSON.parse("[".repeat(70) + "]".repeat(70))), "PAYLOAD_TOO_DEEP"],
  ] as const
) {
  test(`${what}: a dead letter at the first try with the bytes as they came, and its neighbours are handled`, async () => {
    const { app, clock } = world();
    const seen: number[] = [];
    app.on(Ping, { group: "g", concurrency: 1 }, ({ data }) => void seen.push(data.n));
    await app.start();
    await app.publish(Ping, { n: 1 });
    await app.broker.publish("ping", [{ id: "poison", type: "ping.sent", body }]);
    await app.publish(Ping, { n: 2 });
    await clock.advance(1_000);
    const letters = await app.broker.deadLetters.list({}, { limit: 10 });
    assert.deepEqual(
      letters.map((letter) => [letter.id, letter.attempts, letter.failure.error, letter.body]),
      [
        ["poison", 1, code, body],
      ],
    );
    assert.deepEqual(seen, [1, 2]);
    await app.close();
  });
}

function bodyOf(data: unknown, schemaversion = 1): string {
  return JSON.stringify({
    specversion: "1.0",
    id: "poison",
    source: "s",
    type: "ping.sent",
    schemaversion,
    data,
  });
}

test("an error whose parts are not what they should be still ends as a dead letter", async () => {
  const { app, clock } = world();
  const thrown = [Object.assign(new Error("x"), { message: 42, stack: { a: 1 } }), null, Symbol("odd"), {
    code: 1,
  }];
  app.on(Ping, { group: "g", retry: { attempts: 1 } }, ({ data }) => {
    throw thrown[data.n];
  });
  await app.start();
  for (let n = 0; n < thrown.length; n++) await app.publish(Ping, { n });
  await clock.advance(1_000);
  const letters = await app.broker.deadLetters.list({}, { limit: 10 });
  assert.equal(letters.length, thrown.length);
  assert.equal(letters[0]!.failure.message, "42");
  await app.close();
});

test("a handler over its timeout fails with HANDLER_TIMEOUT, its signal aborts, and it is tried again", async () => {
  const { app, clock, of } = world();
  const reasons: unknown[] = [];
  app.on(Ping, { group: "g", timeoutMs: 100, retry: { baseMs: 10 } }, async (_, { attempt, signal }) => {
    if (attempt > 1) return;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
    reasons.push(signal.reason.code);
    await new Promise(() => {});
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(99);
  assert.deepEqual(reasons, []);
  await clock.advance(100);
  assert.deepEqual(reasons, ["HANDLER_TIMEOUT"]);
  assert.deepEqual(of("retried").map(({ error }) => (error as MillstreamError).code), ["HANDLER_TIMEOUT"]);
  assert.deepEqual(of("handled").map(({ attempt }) => attempt), [2]);
  await app.close();
});

test("a type without a handler is passed over: acknowledged, not retried, no dead letter", async () => {
  const { app, clock, of } = world();
  app.on(Ping, { group: "g" }, () => {});
  await app.start();
  await app.publish(Keyed, { n: 1, key: "k" });
  await clock.advance(1_000);
  assert.deepEqual(of("ignored").map(({ type, group }) => [type, group]), [["ping.keyed", "g"]]);
  assert.equal(of("retried").length + of("dead-lettered").length, 0);
  await app.close();
});

test("handlers of one group and topic share one consumer, each gets its own type, one may take the rest", async () => {
  let subscriptions = 0;
  const { app, clock } = world({
    broker: (store) => {
      const broker = store.broker();
      return {
        ...broker,
        subscribe: (...args) => {
          subscriptions++;
          return broker.subscribe(...args);
        },
      };
    },
  });
  const seen: string[] = [];
  app.on(Ping, { group: "g" }, ({ data }) => void seen.push(`ping ${data.n}`));
  app.on(Keyed, { group: "g" }, ({ data }) => void seen.push(`keyed ${data.n}`));
  app.on(topic("ping"), { group: "g" }, ({ type }) => void seen.push(type));
  app.on(Ping, { group: "other" }, ({ data }) => void seen.push(`other ${data.n}`));
  await app.start();
  await app.publish(Ping, { n: 1 });
  await app.publish(Keyed, { n: 2, key: "k" });
  await app.broker.publish("ping", [{
    id: "3",
    type: "ping.new",
    body: bodyOf(null).replace("ping.sent", "ping.new"),
  }]);
  await clock.advance(100);
  assert.equal(subscriptions, 2);
  assert.deepEqual([...seen].sort(), ["keyed 2", "other 1", "ping 1", "ping.new"]);
  await app.close();
});

test("handlers of one group and topic that want different consumers are refused", () => {
  const { app } = world({ retry: { attempts: 7 } });
  app.on(Ping, { group: "g", concurrency: 2, retry: { attempts: 2 } }, () => {});
  assert.throws(() => app.on(Keyed, { group: "g", concurrency: 4 }, () => {}), {
    code: "INVALID_ARGUMENT",
    message: /concurrency/,
  });
  assert.doesNotThrow(() => app.on(Keyed, { group: "g", concurrency: 2, timeoutMs: 50 }, () => {}));
});

test("the application's retry policy is the default of consumers only", async () => {
  const { app, clock } = world({ retry: { attempts: 7, baseMs: 1 } });
  const tries = { own: 0, common: 0 };
  app.on(Ping, { group: "own", retry: { attempts: 2, baseMs: 1 } }, () => {
    tries.own++;
    throw new Error("x");
  });
  app.on(Keyed, { group: "own" }, () => {});
  app.on(Ping, { group: "common" }, () => {
    tries.common++;
    throw new Error("x");
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(60_000);
  assert.deepEqual(tries, { own: 2, common: 7 });
  await app.close();
});

test("close waits for the running handler and hands back what was not started, with its attempt", async () => {
  const { app, clock } = world();
  const hold = gate();
  const finished: number[] = [];
  app.on(Ping, { group: "g", concurrency: 1 }, async ({ data }) => {
    await hold.passed;
    finished.push(data.n);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await app.publish(Ping, { n: 2 });
  await clock.advance(1);
  const other = await app.broker.subscribe("ping", "g");
  const closed = app.close();
  await clock.advance(10);
  assert.deepEqual(finished, []);
  const [second] = await other.pull(5, { waitMs: 0 });
  assert.deepEqual([second?.attempt, second?.redelivered], [1, false]);
  await other[Symbol.asyncDispose]();
  hold.open();
  await closed;
  assert.deepEqual(finished, [1]);
});

test("what was pulled but waits for its key when the consumer closes goes back with the attempt it had", async () => {
  const released: Array<[string, number]> = [];
  // A broker that does not keep keys apart itself.
  const { app, clock } = world({
    broker: (store) => {
      const broker = store.broker();
      return patched({ ...broker, features: { ...broker.features, keyOrder: false } }, (original) => ({
        pull: async (max, options) =>
          (await original.pull(max, options)).map((one) => ({ ...one, key: "same" })),
        release: (deliveries) => {
          released.push(...deliveries.map(({ id, attempt }) => [id, attempt] as [string, number]));
          return original.release(deliveries);
        },
      }));
    },
  });
  const hold = gate();
  const finished: number[] = [];
  app.on(Ping, { group: "g", concurrency: 4 }, async ({ data }) => {
    await hold.passed;
    finished.push(data.n);
  });
  await app.publish(Ping, { n: 1 });
  const second = await app.publish(Ping, { n: 2 });
  await app.start();
  await clock.advance(1);
  const closed = app.close();
  await clock.advance(1);
  hold.open();
  await closed;
  assert.deepEqual([finished, released], [[1], [[second.id, 1]]]);
});

test("a handler that ignores the grace is left behind, its message handed back, its effects not committed", async () => {
  const { app, clock, of } = world();
  const hold = gate();
  let aborted = false;
  app.on(Ping, { group: "g" }, async (_, ctx) => {
    ctx.signal.addEventListener("abort", () => aborted = true);
    await hold.passed;
    await ctx.append("late", [Pong({ n: 1 })]);
  });
  await app.start();
  await app.publish(Ping, { n: 1 });
  await clock.advance(1);
  const closed = app.close({ graceMs: 500 });
  await clock.advance(499);
  assert.equal(aborted, false);
  await clock.advance(1);
  await closed;
  assert.equal(aborted, true);
  hold.open();
  await clock.advance(10);
  assert.deepEqual([of("handled").length, of("retried").length, of("dead-lettered").length], [0, 0, 0]);
});

test("every message is acknowledged, however the handlers' ends fall among the promise jobs", async () => {
  // Interleaving: a handler ends in the few jobs between the last look at the queue of settlements and its end.
  for (let jobs = 0; jobs < 12; jobs++) {
    const { app, clock } = world();
    app.on(Ping, { group: "g", concurrency: 2 }, async ({ data }) => {
      if (data.n === 2) { for (let n = 0; n < jobs; n++) await null; }
    });
    await app.publish(Ping, { n: 1 });
    await app.publish(Ping, { n: 2 });
    await app.start();
    await clock.advance(10);
    const other = await app.broker.subscribe("ping", "g");
    const { inFlight, ready } = await other.lag();
    assert.deepEqual([jobs, inFlight, ready], [jobs, 0, 0]);
    await app.close();
  }
});
