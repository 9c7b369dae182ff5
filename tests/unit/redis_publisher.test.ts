/** How publishes are put together into calls, with a connection that a test answers by hand. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type Clock, systemClock } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { RedisArgument, RedisConnection, RedisReply } from "../../src/ports/redis.ts";
import { type DrainingPublisher, publisher } from "../../src/redis/publisher.ts";

test("what is published to a topic in one tick goes out as one call, in order, at the end of that tick", async () => {
  const { calls, publish } = setUp();
  const publishing = [
    publish("t", [message("a"), message("b")]),
    publish("t", [message("c")]),
    publish("u", [message("d")]),
  ];
  await tick();
  assert.deepEqual(calls.map(({ ids }) => ids), [["a", "b", "c"], ["d"]]);
  for (const call of calls) call.answer(1);
  await Promise.all(publishing);
});

test("two calls of a topic are under way at once; what is published meanwhile gathers, and goes when one returns", async () => {
  const { calls, publish } = setUp();
  const publishing: Promise<void>[] = [];
  for (const id of ["a", "b", "c", "d", "e"]) {
    publishing.push(publish("t", [message(id)]));
    await tick();
  }
  assert.deepEqual(calls.map(({ ids }) => ids), [["a"], ["b"]]);
  calls[0]?.answer(1);
  await publishing[0];
  await tick();
  assert.deepEqual(calls.map(({ ids }) => ids), [["a"], ["b"], ["c", "d", "e"]]);
  for (const call of calls) call.answer(1);
  await Promise.all(publishing);
});

test("a message that cannot be published fails alone, before anything is sent", async () => {
  const { calls, publish } = setUp();
  const good = publish("t", [message("a")]);
  for (
    const bad of [{ id: "" }, { id: "a\tb" }, { type: "" }, { type: "a\nb" }, { key: "\u0000" }, { body: 1 }]
  ) {
    const broken = { ...message("x"), ...bad } as unknown as EncodedMessage;
    await assert.rejects(publish("t", [message("y"), broken]), { code: "INVALID_ARGUMENT" });
  }
  assert.deepEqual(calls.map(({ ids }) => ids), [["a"]]);
  calls[0]?.answer(1);
  await good;
});

test("a lost reply: everyone of that call is told that the outcome is unknown, others are not", async () => {
  const { calls, publish } = setUp();
  const first = [publish("t", [message("a")]), publish("t", [message("b")])];
  await tick();
  const second = publish("t", [message("c")]);
  await tick();
  const outcomes = first.map((one) =>
    assert.rejects(one, { code: "PUBLISH_INDETERMINATE", retryable: true })
  );
  calls[0]?.fail(new MillstreamError("PUBLISH_INDETERMINATE", "lost"));
  calls[1]?.answer(1);
  await Promise.all(outcomes);
  await second;
  assert.equal(calls.length, 2, "nothing was sent again");
});

test("a list too long for one call goes out in parts; if a later part is refused, the outcome is unknown", async () => {
  const { calls, publish } = setUp();
  const publishing = publish(
    "t",
    Array.from({ length: 1_500 }, (_, index) => message(`m${index}`)),
  );
  const outcome = assert.rejects(publishing, { code: "PUBLISH_INDETERMINATE" });
  await tick();
  assert.deepEqual(calls.map(({ ids }) => ids.length), [1_000]);
  calls[0]?.answer(1_000);
  await tick();
  assert.deepEqual(calls.map(({ ids }) => ids.length), [1_000, 500]);
  calls[1]?.fail(new MillstreamError("OVERLOADED", "OOM"));
  await outcome;
});

test("if the first part is refused, so is the whole, and no later part is sent", async () => {
  const { calls, publish } = setUp();
  const outcome = assert.rejects(
    publish("t", Array.from({ length: 1_500 }, (_, n) => message(`m${n}`))),
    { code: "OVERLOADED" },
  );
  await tick();
  calls[0]?.fail(new MillstreamError("OVERLOADED", "OOM"));
  await outcome;
  await tick();
  assert.equal(calls.length, 1);
});

test("a signal takes back what waits, and not what was sent", async () => {
  const { calls, publish } = setUp();
  const controller = new AbortController();
  const { signal } = controller;
  const sent = [publish("t", [message("a")], { signal })];
  await tick();
  sent.push(publish("t", [message("b")], { signal }));
  await tick();
  const waiting = publish("t", [message("c")], { signal });
  const kept = publish("t", [message("d")]);
  await tick();
  controller.abort();
  await assert.rejects(waiting, { code: "ABORTED" });
  for (const call of calls) call.answer(1);
  await Promise.all(sent);
  await tick();
  assert.deepEqual(calls.map(({ ids }) => ids), [["a"], ["b"], ["d"]]);
  calls[2]?.answer(1);
  await kept;
});

test("everything settles within the deadline, also what waits behind calls that never return", async () => {
  let now = 0;
  const clock: Clock = { ...systemClock, monotonic: () => now };
  const { calls, publish } = setUp({ clock });
  const outcomes = [publish("t", [message("a")])];
  await tick();
  outcomes.push(publish("t", [message("b")]));
  await tick();
  now = 400;
  outcomes.push(publish("t", [message("c")]));
  await tick();
  assert.deepEqual(calls.map(({ timeoutMs }) => timeoutMs), [1_000, 1_000]);
  const settled = outcomes.map((one) => one.then(() => "ok", (error: MillstreamError) => error.code));
  now = 1_000; // the driver gives up both
  for (const call of calls) {
    call.fail(new MillstreamError("PUBLISH_INDETERMINATE", "late"));
  }
  await tick();
  assert.equal(calls[2]?.timeoutMs, 400, "the rest of its own time");
  now = 1_400;
  calls[2]?.fail(new MillstreamError("UNAVAILABLE", "late"));
  assert.deepEqual(await Promise.all(settled), [
    "PUBLISH_INDETERMINATE",
    "PUBLISH_INDETERMINATE",
    "UNAVAILABLE",
  ]);
});

test("what waited until its time was up is refused without being sent", async () => {
  let now = 0;
  const { calls, publish } = setUp({ clock: { ...systemClock, monotonic: () => now } });
  const out = [publish("t", [message("a")])];
  await tick();
  out.push(publish("t", [message("b")]));
  await tick();
  const late = assert.rejects(publish("t", [message("c")]), { code: "UNAVAILABLE" });
  await tick();
  now = 1_000;
  for (const call of calls) call.answer(1);
  await Promise.all(out);
  await late;
  assert.equal(calls.length, 2);
});

test("an empty list and a delay out of range never reach the server", async () => {
  const { calls, publish } = setUp();
  await publish("t", []);
  await assert.rejects(publish("t", [message("a")], { delayMs: -1 }), { code: "INVALID_ARGUMENT" });
  await assert.rejects(publish("t", [message("a")], { delayMs: Infinity }), { code: "INVALID_ARGUMENT" });
  assert.equal(calls.length, 0);
});

interface Call {
  readonly ids: readonly string[];
  readonly timeoutMs: number;
  answer(reply: RedisReply): void;
  fail(error: Error): void;
}

function setUp(
  { clock = systemClock }: { clock?: Clock } = {},
): { calls: Call[]; publish: DrainingPublisher["publish"] } {
  const calls: Call[] = [];
  const connection: RedisConnection = {
    call: () => Promise.reject(new Error("not expected")),
    script: (_script, _keys, args, { timeoutMs }) =>
      new Promise((resolve, reject) =>
        calls.push({ ids: idsOf(args), timeoutMs, answer: resolve, fail: reject })
      ),
    onReconnect: () => {},
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
  const context = {
    connection,
    clock,
    prefix: "p",
    timeoutMs: 1_000,
    dedupWindowMs: 1_000,
    durability: "memory" as const,
    confirmations: {
      confirmed: () => Promise.reject(new Error("not expected")),
      close: () => Promise.resolve(),
    },
    delayed: () => {},
  };
  return { calls, publish: publisher(context).publish };
}

function idsOf(args: readonly RedisArgument[]): readonly string[] {
  return args.slice(2).flatMap((arg, index) => index % 2 === 0 ? [String(arg).split("\t")[0] ?? ""] : []);
}

function message(id: string): EncodedMessage {
  return { id, type: "x", body: "{}" };
}

/** Lets all promise jobs run. */
function tick(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}
