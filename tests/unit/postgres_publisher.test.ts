import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { systemClock } from "../../src/core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../src/core/errors.ts";
import type { SqlRow, SqlValue } from "../../src/ports/sql.ts";
import { publisher } from "../../src/postgres/broker/publisher.ts";
import { createBells } from "../../src/postgres/wakeup.ts";
import { watermark } from "../../src/postgres/watermark.ts";

describe("publishing on postgres from many callers", () => {
  test("what comes in one tick shares a statement; what comes while it is under way shares the next, in order", async () => {
    const { statements, publish, answer } = server();
    const first = ["a", "b", "c"].map((id) => publish("t", [id]));
    const other = publish("u", ["x"]);
    await Promise.resolve();
    assert.deepEqual(statements, [["t", "a", "b", "c"], ["u", "x"]]);
    const later = ["d", "e"].map((id) => publish("t", [id]));
    await Promise.resolve();
    assert.equal(statements.length, 2, "a second statement of the same topic was begun");
    answer();
    answer();
    await Promise.all([...first, other]);
    assert.deepEqual(statements[2], ["t", "d", "e"]);
    answer();
    await Promise.all(later);
  });

  test("a message that the server refuses: its caller alone is told, the others are published", async () => {
    const { statements, publish } = server((ids) => {
      if (ids.includes("bad")) {
        throw new MillstreamError("REJECTED", "no", { details: { sqlState: "22021" } });
      }
    });
    const outcomes = await Promise.allSettled(["a", "bad", "b"].map((id) => publish("t", [id])));
    assert.deepEqual(outcomes.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
    assert.deepEqual(statements, [["t", "a", "bad", "b"], ["t", "a"], ["t", "bad"], ["t", "b"]]);
  });

  test("a lost reply: every caller of the statement is told that it is uncertain, and nothing is sent again", async () => {
    const { statements, publish } = server(() => {
      throw new MillstreamError("COMMIT_INDETERMINATE", "lost");
    });
    const outcomes = await Promise.allSettled(["a", "b"].map((id) => publish("t", [id])));
    for (const outcome of outcomes) {
      assert.ok(outcome.status === "rejected" && isMillstreamError(outcome.reason, "PUBLISH_INDETERMINATE"));
    }
    assert.equal(statements.length, 1);
  });

  test("aborted while it waits for the statement before it: it is never sent; aborted later: its outcome counts", async () => {
    const { statements, publish, answer } = server();
    const [sent, waiting] = [new AbortController(), new AbortController()];
    const first = publish("t", ["a"], sent.signal);
    await Promise.resolve();
    const second = publish("t", ["b"], waiting.signal);
    sent.abort();
    waiting.abort();
    await assert.rejects(second, (error) => isMillstreamError(error, "ABORTED"));
    answer();
    await first;
    assert.deepEqual(statements, [["t", "a"]]);
  });

  test("statements have bounds, and what one caller publishes at once stays together", async () => {
    const { statements, publish } = server(() => {});
    const ids = (count: number, name: string): string[] => Array.from({ length: count }, (_, n) => name + n);
    await Promise.all([
      publish("t", ids(900, "a")),
      publish("t", ids(200, "b")),
      publish("t", ids(2_500, "c")),
    ]);
    assert.deepEqual(statements.map(({ length }) => length - 1), [900, 200, 2_500]);
  });
});

/** A publisher on a session that notes topic and ids, and answers when told; or at once, as `decide` does. */
function server(decide?: (ids: readonly string[]) => void) {
  const statements: string[][] = [];
  const answers: Array<() => void> = [];
  const { publish } = publisher({
    session: {
      query<Row extends SqlRow>(_text: string, values: readonly SqlValue[] = []): Promise<readonly Row[]> {
        const [topic, ids] = values as [string, string[]];
        statements.push([topic, ...ids]);
        if (!decide) return new Promise((resolve) => answers.push(() => resolve([])));
        return Promise.resolve(ids).then(decide).then(() => []);
      },
    },
    schema: `"s"`,
    clock: systemClock,
    intervals: { minMs: 1, maxMs: 1 },
    watermark: watermark(),
    bells: createBells(systemClock),
    ping: () => Promise.resolve(),
  });
  return {
    statements,
    answer: () => answers.shift()?.(),
    publish: (topic: string, ids: readonly string[], signal?: AbortSignal) =>
      publish(topic, ids.map((id) => ({ id, type: "t", body: "{}" })), signal ? { signal } : {}),
  };
}
