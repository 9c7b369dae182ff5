import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { backoffDelay, retryPolicy } from "../../src/core/backoff.ts";
import { abortable, sleep, withDeadline } from "../../src/core/clock.ts";
import { command, event, query, topic, upgrade } from "../../src/core/definition.ts";
import { disposer } from "../../src/core/dispose.ts";
import { describe, isMillstreamError, MillstreamError, refuse, toError } from "../../src/core/errors.ts";
import { uuidv5, uuidv7Generator } from "../../src/core/ids.ts";
import { sha1 } from "../../src/core/sha1.ts";
import type { Message } from "../../src/core/message.ts";
import { checkName, checkText } from "../../src/core/names.ts";
import { validate } from "../../src/core/schema.ts";
import { formatToken, parseToken } from "../../src/core/token.ts";
import { childTraceparent, parseTraceparent } from "../../src/core/trace.ts";
import { virtualClock } from "../../src/testing/mod.ts";

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

test("ids are well-formed UUIDv7 that increase whatever the clock does", () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 1, max: 2 ** 47, noNaN: true }), {
        minLength: 2,
        maxLength: 50,
      }),
      (times) => {
        let at = 0;
        const next = uuidv7Generator(() => times[Math.min(at++, times.length - 1)]!);
        let before = "";
        for (let n = 0; n < times.length + 20; n++) {
          const id = next();
          assert.match(id, UUID_V7);
          assert.ok(id > before, `${id} after ${before}`);
          before = id;
        }
      },
    ),
  );
});

test("20,000 ids of one millisecond are distinct and increasing", () => {
  const next = uuidv7Generator(() => Date.UTC(2026, 0, 1));
  const ids = Array.from({ length: 20_000 }, next);
  assert.deepEqual(ids, [...ids].sort());
  assert.equal(new Set(ids).size, ids.length);
  assert.ok(ids.every((id) => UUID_V7.test(id)));
});

test("an id begins with its time", () => {
  const id = uuidv7Generator(() => 0x0123_4567_89ab)();
  assert.ok(id.startsWith("01234567-89ab-7"), id);
});

test("derived ids are UUIDv5 and stay the same in all versions", async () => {
  assert.equal(
    await uuidv5("order-1/0"),
    "c5d9207f-d40f-52f6-86ca-b16026fb9e73",
  );
  assert.match(
    await uuidv5("ü\u0000"),
    /^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
  );
  assert.notEqual(await uuidv5("a"), await uuidv5("b"));
});

test("a delay is a whole number between 0 and the bound, for any attempt and policy", () => {
  const policy = fc.record({
    attempts: fc.integer({ min: 1, max: 1_000_000 }),
    baseMs: fc.double({ min: 0, max: 86_400_000, noNaN: true }),
    factor: fc.double({ min: 1, max: 100, noNaN: true }),
    maxMs: fc.double({ min: 0, max: 30 * 86_400_000, noNaN: true }),
  });
  const check = (
    attempt: number,
    resolved: Required<Parameters<typeof retryPolicy>[0] & object>,
    chance: number,
  ): void => {
    const delay = backoffDelay(attempt, retryPolicy(resolved), () => chance);
    assert.ok(
      Number.isInteger(delay) && delay >= 0 && delay <= resolved.maxMs,
      `${delay}`,
    );
    if (attempt === 1) assert.ok(delay <= resolved.baseMs);
  };
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 1_000_000 }),
      policy,
      fc.double({ min: 0, max: 0.999999, noNaN: true }),
      check,
    ),
  );
  check(1_000_000, { attempts: 1, baseMs: 0, factor: 100, maxMs: 1_000 }, 0.5);
});

test("the bound doubles from the base until it is capped", () => {
  const resolved = retryPolicy();
  const bounds = [1, 2, 3, 9, 10, 500].map((attempt) => backoffDelay(attempt, resolved, () => 0.9999999));
  assert.deepEqual(bounds, [199, 399, 799, 51_199, 59_999, 59_999]);
});

test("retry options out of range are refused by name", () => {
  for (
    const bad of [
      { attempts: 0 },
      { attempts: 1.5 },
      { baseMs: -1 },
      { factor: 0.5 },
      { maxMs: NaN },
      { attempts: "3" as unknown as number },
    ]
  ) {
    const [option] = Object.keys(bad);
    assert.throws(() => retryPolicy(bad), {
      code: "INVALID_ARGUMENT",
      message: new RegExp(`retry\\.${option}`),
    });
  }
});

test("names are refused unless every broker and store can carry them", () => {
  for (const name of ["a", "order.placed", "A-b_c.9", "a".repeat(200)]) {
    assert.equal(checkName("topic", name), name);
  }
  for (
    const name of [
      "",
      ".a",
      "-a",
      "a b",
      "a/b",
      "ä",
      "a\n",
      "a".repeat(201),
      "a'; drop table x",
      "{a}",
      5 as never,
      undefined as never,
    ]
  ) {
    assert.throws(() => checkName("topic", name), {
      code: "INVALID_ARGUMENT",
      details: { kind: "topic" },
    });
  }
  for (const text of ["a b/ü😀", "x".repeat(255)]) {
    assert.equal(checkText("key", text), text);
  }
  for (
    const text of [
      "",
      "a\u0000",
      "\u0085",
      "\u2028",
      "\ud83d",
      "\ude00x",
      "x".repeat(256),
      null as never,
    ]
  ) {
    assert.throws(() => checkText("key", text), { code: "INVALID_ARGUMENT" });
  }
});

test("everything deferred is closed once, last first, also when one part fails", async () => {
  const closed: string[] = [];
  const parts = disposer();
  for (const name of ["a", "b", "c"]) {
    parts.defer(async () => {
      await null;
      closed.push(name);
      if (name === "b") throw new Error("b failed");
    });
  }
  const results = await Promise.allSettled([
    parts.dispose(),
    parts.dispose(),
    parts[Symbol.asyncDispose](),
  ]);
  assert.deepEqual(closed, ["c", "b", "a"]);
  assert.deepEqual(results.map(({ status }) => status), [
    "rejected",
    "rejected",
    "rejected",
  ]);
  const two = disposer();
  two.defer(() => Promise.reject(new Error("one")));
  two.defer(() => Promise.reject(new Error("two")));
  await assert.rejects(
    two.dispose(),
    (error: AggregateError) => error.errors.length === 2,
  );
});

test("a valibot schema validates, transforms and says where data is wrong", async () => {
  const schema = v.object({
    items: v.array(
      v.object({ count: v.pipe(v.string(), v.transform(Number)) }),
    ),
  });
  assert.deepEqual(await validate(schema, { items: [{ count: "2" }] }, "x"), {
    items: [{ count: 2 }],
  });
  await assert.rejects(
    async () => await validate(schema, { items: [{ count: "2" }, { count: 3 }] }, 'event "e"'),
    (error: MillstreamError) => {
      assert.equal(error.code, "VALIDATION_FAILED");
      assert.equal(
        (error.details.issues as { path: string }[])[0]!.path,
        "items.1.count",
      );
      assert.match(
        error.message,
        /^Cannot accept event "e": "items.1.count": /,
      );
      return true;
    },
  );
  const later = v.pipeAsync(
    v.string(),
    v.checkAsync((text) => Promise.resolve(text === "ok")),
  );
  assert.equal(await validate(later, "ok", "x"), "ok");
  await assert.rejects(async () => await validate(later, "no", "x"), {
    code: "VALIDATION_FAILED",
  });
});

test("a definition with a missing upcaster is refused, naming the version", () => {
  const schema = v.object({});
  assert.throws(
    () => event("a.b", schema, { version: 3, upcast: { 1: (old) => old } }),
    { details: { type: "a.b", missing: 2 } },
  );
  assert.throws(() => command("a.b", schema, { version: 2 }), {
    code: "INVALID_ARGUMENT",
  });
  assert.throws(() => event("a b", schema), { code: "INVALID_ARGUMENT" });
  assert.throws(() => event("a.b", schema, { topic: "no topic" }), {
    code: "INVALID_ARGUMENT",
  });
  assert.throws(() => event("a.b", schema, { version: 1.5 }), {
    code: "INVALID_ARGUMENT",
  });
  assert.throws(() => query("", schema), { code: "INVALID_ARGUMENT" });
  assert.throws(() => topic("#"), { code: "INVALID_ARGUMENT" });
  assert.equal(event("order.placed", schema).topic, "order");
});

test("old data goes through every upcaster in turn, then through the schema", async () => {
  const Renamed = event(
    "a.renamed",
    v.object({ name: v.string(), parts: v.array(v.string()) }),
    {
      version: 3,
      upcast: {
        1: ({ title }) => ({ name: title }),
        2: (old) => ({ ...old, parts: old.name.split(" ") }),
      },
    },
  );
  const message = (schemaVersion: number, data: unknown): Message => ({
    id: "1",
    source: "s",
    type: "a.renamed",
    time: "",
    headers: {},
    schemaVersion,
    data,
  });
  const expected = { name: "x y", parts: ["x", "y"] };
  for (
    const [version, data] of [[1, { title: "x y" }], [2, { name: "x y" }], [
      3,
      expected,
    ]] as const
  ) {
    const upgraded = await upgrade(Renamed, message(version, data));
    assert.deepEqual([upgraded.schemaVersion, upgraded.data], [3, expected]);
  }
  await assert.rejects(async () => await upgrade(Renamed, message(4, expected)), {
    code: "UNKNOWN_SCHEMA_VERSION",
    details: { type: "a.renamed", version: 4, known: 3 },
  });
  await assert.rejects(async () => await upgrade(Renamed, message(3, {})), {
    code: "VALIDATION_FAILED",
  });
});

test("a traceparent is continued if it is valid, and begun anew if not", () => {
  const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  assert.equal(parseTraceparent(parent), parent);
  const child = childTraceparent(parent);
  assert.match(child, /^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01$/);
  assert.notEqual(child, parent);
  const bad = [
    undefined,
    null,
    "",
    "x",
    parent.toUpperCase(),
    `${parent}-x`,
    parent.replace("00-", "ff-"),
    parent.replace("0af7651916cd43dd8448eb211c80319c", "0".repeat(32)),
    parent.replace("b7ad6b7169203331", "0".repeat(16)),
  ];
  for (const value of bad) {
    assert.equal(parseTraceparent(value), undefined, String(value));
    assert.ok(parseTraceparent(childTraceparent(value ?? undefined)));
  }
});

test("a position token survives the trip, and what is none is refused", () => {
  assert.equal(
    parseToken(formatToken(123_456_789_012_345_678n)),
    123_456_789_012_345_678n,
  );
  for (
    const token of ["", "-1", "1e3", "0x1", " 1", "1".repeat(19), 1 as never]
  ) {
    assert.throws(() => parseToken(token), { code: "INVALID_ARGUMENT" });
  }
});

test("a wait ends early when its signal aborts, and late work is given up, with no timer left", async () => {
  const clock = virtualClock();
  const controller = new AbortController();
  const sleeping = sleep(clock, 1_000, controller.signal);
  const waiting = abortable(new Promise(() => {}), controller.signal);
  controller.abort("enough");
  await assert.rejects(sleeping, { code: "ABORTED" });
  await assert.rejects(waiting, (error: Error) => error.cause === "enough");
  await assert.rejects(sleep(clock, 1, controller.signal), { code: "ABORTED" });
  assert.equal(clock.pending, 0);
  const late = withDeadline(
    clock,
    50,
    new Promise(() => {}),
    () => new MillstreamError("DEADLINE_EXCEEDED", "late"),
  );
  const intime = withDeadline(
    clock,
    50,
    Promise.resolve(1),
    () => new Error("late"),
  );
  const result = assert.rejects(late, { code: "DEADLINE_EXCEEDED" });
  assert.equal(await intime, 1);
  await clock.advance(50);
  await result;
  assert.equal(clock.pending, 0);
});

test("whatever is thrown becomes an Error that can be told apart", () => {
  const circle: { self?: unknown } = {};
  circle.self = circle;
  for (
    const thrown of [
      undefined,
      null,
      "text",
      5n,
      Symbol("s"),
      circle,
      () => {},
      { a: 1 },
    ]
  ) {
    const error = toError(thrown);
    assert.ok(error instanceof Error);
    assert.ok(describe(thrown).length > 0);
  }
  const own = refuse("ORDER_EXISTS");
  assert.equal(toError(own), own);
  assert.ok(
    isMillstreamError(own, "REFUSED") && !own.retryable &&
      own.details.reason === "ORDER_EXISTS",
  );
  assert.ok(
    !isMillstreamError(new Error("x")) && !isMillstreamError(own, "CLOSED"),
  );
  // Another copy of the package in the same process.
  const foreign = Object.assign(new Error("x"), {
    name: "MillstreamError",
    code: "CLOSED",
  });
  assert.ok(isMillstreamError(foreign, "CLOSED"));
});

test("SHA-1 is that of the platform, at every length around its blocks and for what texts and bytes may hold", async () => {
  const bytes = crypto.getRandomValues(new Uint8Array(300));
  for (let length = 0; length <= 300; length++) {
    const part = bytes.slice(0, length);
    assert.deepEqual(
      sha1(part),
      new Uint8Array(await crypto.subtle.digest("SHA-1", part)),
      `${length} bytes`,
    );
  }
});
