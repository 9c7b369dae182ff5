/** How appends of many callers are put together into statements, with a session that a test answers by hand. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type ErrorCode, MillstreamError } from "../../src/core/errors.ts";
import type { AppendResult, ExpectedVersion } from "../../src/ports/event_store.ts";
import type { SqlSession, SqlValue } from "../../src/ports/sql.ts";
import { unitOf } from "../../src/postgres/events/append.ts";
import { appendQueue } from "../../src/postgres/events/queue.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/virtual_clock.ts";

describe("the queue of appends", () => {
  test("what is appended in one tick goes out as one statement, in order, at the end of that tick", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1", "2"]), append("b", ["3"]), append("c", ["4"])];
    await tick();
    assert.deepEqual(calls.map(({ ids }) => ids), [["1", "2", "3", "4"]]);
    calls[0]!.answer([0, 0, 0], [2, 1, 7], [12, 13, 14]);
    assert.deepEqual(await Promise.all(appending), [
      [{ stream: "a", version: 2, position: 12n }],
      [{ stream: "b", version: 1, position: 13n }],
      [{ stream: "c", version: 7, position: 14n }],
    ]);
  });

  test("two statements are under way at once; what comes meanwhile gathers, and goes when one returns", async () => {
    const { calls, append, tick } = setUp();
    const appending: Promise<unknown>[] = [];
    for (const stream of ["a", "b", "c", "d", "e"]) {
      appending.push(append(stream, [`in ${stream}`]));
      await tick();
    }
    assert.deepEqual(calls.map(({ ids }) => ids), [["in a"], ["in b"]]);
    calls[0]!.answer([0], [1], [1]);
    await appending[0];
    await tick();
    assert.deepEqual(calls.map(({ ids }) => ids), [["in a"], ["in b"], ["in c", "in d", "in e"]]);
    calls[1]!.answer([0], [1], [2]);
    calls[2]!.answer([0, 0, 0], [1, 1, 1], [3, 4, 5]);
    await Promise.all(appending);
  });

  test("appends at exact versions of different streams go the short way, in order of stream; who does not fit goes the long way", async () => {
    const { calls, append, tick } = setUp();
    const appending = Promise.allSettled([
      append("b", ["1"], 2),
      append("a", ["2", "3"], 0),
      append("c", ["4"], 5),
    ]);
    await tick();
    assert.deepEqual([calls[0]!.name, calls[0]!.ids], ["append_each", ["2", "3", "1", "4"]]);
    calls[0]!.answer([0, 3, 0], [2, 0, 6], [11, 0, 12]);
    await tick();
    assert.deepEqual([calls[1]!.name, calls[1]!.ids], ["append_one", ["1"]]);
    calls[1]!.answer([2], [9], [0]);
    const [b, a, c] = await appending;
    assert.deepEqual(codeAndDetails(b), ["CONCURRENCY_CONFLICT", { stream: "b", expected: 2, current: 9 }]);
    assert.deepEqual(a, { status: "fulfilled", value: [{ stream: "a", version: 2, position: 11n }] });
    assert.deepEqual(c, { status: "fulfilled", value: [{ stream: "c", version: 6, position: 12n }] });
  });

  test("a refusal on the short way is tried again on the long way before anybody is sent alone", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"], 1), append("b", ["2"], 1)];
    await tick();
    calls[0]!.fail("REJECTED", { sqlState: "55P03" });
    await tick();
    assert.deepEqual([calls[1]!.name, calls[1]!.ids, calls[1]!.wait], ["append_many", ["1", "2"], false]);
    calls[1]!.answer([0, 0], [2, 2], [1, 2]);
    await Promise.all(appending);
    assert.equal(calls.length, 2);
  });

  test("two appends to one stream go the long way, which sees the first before the second", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"], 0), append("a", ["2"], 1), append("b", ["3"], 0)];
    await tick();
    assert.deepEqual([calls[0]!.name, calls[0]!.ids], ["append_many", ["1", "2", "3"]]);
    calls[0]!.answer([0, 0, 0], [1, 2, 1], [1, 2, 3]);
    await Promise.all(appending);
  });

  test("a conflict, an archived stream and a repetition are answers to one caller; its neighbours have theirs", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"], 0), append("b", ["2"], 3), append("c", ["3"]), append("d", ["4"])];
    await tick();
    calls[0]!.answer([0, 2, 4, 1], [1, 9, 0, 5], [12, 0, 0, 6]);
    const [a, b, c, d] = await Promise.allSettled(appending);
    assert.equal(a?.status, "fulfilled");
    assert.deepEqual(codeAndDetails(b), ["CONCURRENCY_CONFLICT", { stream: "b", expected: 3, current: 9 }]);
    assert.deepEqual(codeAndDetails(c), ["REJECTED", { stream: "c", state: "archived" }]);
    assert.deepEqual(d, { status: "fulfilled", value: [{ stream: "d", version: 5, position: 6n }] });
  });

  test("a statement that the server refuses is repeated caller by caller: only the one to blame fails", async () => {
    const { calls, append, tick } = setUp();
    const appending = Promise.allSettled([append("a", ["1"]), append("b", ["2"]), append("c", ["3"])]);
    await tick();
    calls[0]!.fail("REJECTED");
    await tick();
    assert.deepEqual(calls.slice(1).map(({ ids }) => ids), [["1"], ["2"]]);
    calls[1]!.answer([0], [1], [1]);
    calls[2]!.fail("REJECTED");
    await tick();
    assert.deepEqual(calls[3]!.ids, ["3"]);
    calls[3]!.answer([0], [1], [2]);
    const settled = await appending;
    assert.deepEqual(settled.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    assert.equal(codeAndDetails(settled[1])[0], "REJECTED");
  });

  test("an id that is there already makes a single append look closer, once", async () => {
    const { calls, append, tick } = setUp();
    const appending = append("a", ["1"], 4);
    await tick();
    assert.equal(calls[0]!.careful, false);
    calls[0]!.fail("REJECTED", { sqlState: "23505" });
    await tick();
    assert.equal(calls[1]!.careful, true);
    calls[1]!.answer([1], [3], [30]);
    assert.deepEqual(await appending, [{ stream: "a", version: 3, position: 30n }]);
  });

  test("a lost reply makes all callers of the statement uncertain, and none of them is sent again", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"]), append("b", ["2"])];
    await tick();
    calls[0]!.fail("COMMIT_INDETERMINATE");
    const settled = await Promise.allSettled(appending);
    assert.deepEqual(settled.map((one) => codeAndDetails(one)), [
      ["COMMIT_INDETERMINATE", { streams: ["a"] }],
      ["COMMIT_INDETERMINATE", { streams: ["b"] }],
    ]);
    await tick();
    assert.equal(calls.length, 1);
  });

  test("while the server is away every caller is told so, and none is sent again", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"]), append("b", ["2"])];
    await tick();
    calls[0]!.fail("UNAVAILABLE");
    const settled = await Promise.allSettled(appending);
    assert.deepEqual(settled.map((one) => codeAndDetails(one)[0]), ["UNAVAILABLE", "UNAVAILABLE"]);
    assert.equal(calls.length, 1);
  });

  test("a stream that another process has locked is sent again by itself, waiting; its neighbours are done", async () => {
    const { calls, append, tick } = setUp();
    const [a, busy, busyToo] = [append("a", ["1"]), append("b", ["2"]), append("b", ["3"])];
    await tick();
    assert.equal(calls[0]!.wait, false);
    calls[0]!.answer([0, 3, 3], [1, 0, 0], [1, 0, 0]);
    await a;
    await tick();
    assert.deepEqual([calls[1]!.ids, calls[1]!.wait], [["2", "3"], true]);
    calls[1]!.answer([0, 0], [1, 2], [2, 3]);
    await Promise.all([busy, busyToo]);
  });

  test("a statement that waits long gives up its place, but its stream stays in order behind it", async () => {
    const { calls, append, tick, clock } = setUp();
    const slow = [append("a", ["1"]), undefined];
    await tick();
    slow[1] = append("b", ["2"]);
    await tick();
    const others = [append("a", ["3"]), append("c", ["4"])];
    await tick();
    assert.equal(calls.length, 2);
    await clock.advance(60);
    assert.deepEqual(calls.map(({ ids }) => ids), [["1"], ["2"], ["4"]]);
    calls[0]!.answer([0], [1], [1]);
    await tick();
    assert.deepEqual(calls[3]!.ids, ["3"]);
    for (const call of calls.slice(1)) call.answer([0], [1], [9]);
    await Promise.all([...slow, ...others]);
  });

  test("the same events called twice at once are never in one statement", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1", "2"]), append("a", ["1", "2"]), append("b", ["3"])];
    await tick();
    assert.deepEqual(calls.map(({ ids }) => ids), [["1", "2", "3"]]);
    calls[0]!.answer([0, 0], [2, 1], [2, 3]);
    await tick();
    assert.deepEqual(calls[1]!.ids, ["1", "2"]);
    calls[1]!.answer([1], [2], [2]);
    const [one, two] = await Promise.all(appending);
    assert.deepEqual(one, two);
  });

  test("what is called after an append that has to wait its turn stays behind it in its stream", async () => {
    const { calls, append, tick } = setUp();
    const appending = [append("a", ["1"]), append("a", ["1"]), append("a", ["2"]), append("b", ["3"])];
    await tick();
    assert.deepEqual(calls.map(({ ids }) => ids), [["1", "3"]]);
    calls[0]!.answer([0, 0], [1, 1], [1, 2]);
    await tick();
    assert.deepEqual(calls[1]!.ids, ["1", "2"]);
    calls[1]!.answer([1, 0], [1, 2], [1, 3]);
    await Promise.all(appending);
  });

  test("a statement is bounded in events and in characters; what is larger goes alone", async () => {
    const { calls, append, tick } = setUp();
    const ids = (count: number, prefix: string): string[] =>
      Array.from({ length: count }, (_, n) => prefix + n);
    const appending = [append("a", ids(900, "a")), append("b", ids(200, "b")), append("c", ids(1_500, "c"))];
    await tick();
    assert.deepEqual(calls.map((call) => call.ids.length), [900, 200]);
    calls[0]!.answer([0], [900], [1]);
    await tick();
    assert.equal(calls[2]!.ids.length, 1_500);
    const large = [append("d", ["d"], "any", 3_000_000), append("e", ["e"], "any", 3_000_000)];
    calls[1]!.answer([0], [1], [1]);
    await tick();
    assert.deepEqual(calls[3]!.ids, ["d"]);
    calls[2]!.answer([0], [1], [1]);
    await tick();
    assert.deepEqual(calls[4]!.ids, ["e"]);
    for (const call of calls.slice(3)) call.answer([0], [1], [1]);
    await Promise.all([...appending, ...large]);
  });

  test("an abort stops what waits, and leaves alone what was sent", async () => {
    const { calls, append, tick } = setUp();
    const gone = new AbortController();
    const sent = append("a", ["1"], "any", 1, gone.signal);
    await tick();
    const waiting = append("a", ["2"], "any", 1, gone.signal);
    await tick();
    gone.abort();
    await assert.rejects(waiting, { code: "ABORTED" });
    calls[0]!.answer([0], [1], [1]);
    assert.equal((await sent)[0]?.version, 1);
    await tick();
    assert.equal(calls.length, 1);
    await assert.rejects(append("a", ["3"], "any", 1, gone.signal), { code: "ABORTED" });
  });

  test("what could not be sent for too long is refused as such, and nothing of it is sent later", async () => {
    const { calls, append, tick, clock } = setUp();
    const stuck = append("a", ["1"]);
    await tick();
    const late = append("a", ["2"]);
    await clock.advance(20_000);
    calls[0]!.fail("COMMIT_INDETERMINATE");
    await assert.rejects(stuck, { code: "COMMIT_INDETERMINATE" });
    await assert.rejects(late, { code: "OVERLOADED", message: /nothing was written/ });
    await tick();
    assert.equal(calls.length, 1);
  });

  test("closing waits for what is under way and what gathers behind it", async () => {
    const { calls, append, tick, drained } = setUp();
    const appending = [append("a", ["1"])];
    await tick();
    appending.push(append("a", ["2"]));
    let closed = false;
    const closing = drained().then(() => closed = true);
    calls[0]!.answer([0], [1], [1]);
    await tick();
    assert.equal(closed, false);
    calls[1]!.answer([0], [2], [2]);
    await Promise.all([...appending, closing]);
  });
});

/** A statement that was sent. */
interface Call {
  readonly name: string;
  readonly ids: readonly string[];
  readonly wait: boolean;
  readonly careful: boolean;
  answer(outcomes: number[], versions: number[], positions: number[]): void;
  fail(code: ErrorCode, details?: Record<string, unknown>): void;
}

interface SetUp {
  readonly calls: Call[];
  readonly clock: VirtualClock;
  append(
    stream: string,
    ids: readonly string[],
    expected?: ExpectedVersion,
    size?: number,
    signal?: AbortSignal,
  ): Promise<readonly AppendResult[]>;
  tick(): Promise<void>;
  drained(): Promise<void>;
}

function setUp(): SetUp {
  const calls: Call[] = [];
  const clock = virtualClock();
  const session: SqlSession = {
    query: <Row>(text: string, values: readonly SqlValue[] = []) =>
      new Promise<readonly Row[]>((resolve, reject) => {
        const name = /append_\w+/.exec(text)?.[0] ?? "";
        const many = name === "append_many";
        calls.push({
          name,
          ids: values[{ append_one: 2, append_each: 5, append_many: 9 }[name] ?? -1] as string[],
          wait: !many || values[0] === true,
          careful: many && values[1] === true,
          answer: (...lists) => resolve([{ reply: lists.flat().map(String) }] as Row[]),
          fail: (code, details = {}) => reject(new MillstreamError(code, "Refused by the test", { details })),
        });
      }),
  };
  const queue = appendQueue({ session, clock, schema: '"s"', onAppend: () => {} });
  return {
    calls,
    clock,
    append(stream, ids, expected = "any", size = 2, signal) {
      const events = ids.map((id) => ({ id, type: "happened", body: "x".repeat(size) }));
      return queue.append(unitOf([{ stream, expected, events }]), signal);
    },
    tick: () => clock.advance(0),
    drained: queue.drained,
  };
}

function codeAndDetails(settled: PromiseSettledResult<unknown> | undefined): readonly [string?, unknown?] {
  if (settled?.status !== "rejected") return [];
  const { code, details } = settled.reason as MillstreamError;
  return [code, details];
}
