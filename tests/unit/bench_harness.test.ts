/** How the benchmarks turn rounds into figures, and what they refuse to count. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { inBatches, makeEvents, tally } from "../../bench/events.ts";
import {
  digits,
  figures,
  median,
  type Question,
  race,
  ratio,
  rotated,
  table,
  verify,
} from "../../bench/harness.ts";
import { decodeMessage } from "../../mod.ts";

describe("a figure", () => {
  test("is the median of its rounds, whatever their order", () => {
    assert.equal(median([7]), 7);
    assert.equal(median([9, 1, 5]), 5);
    assert.equal(median([10, 2, 8, 4]), 6);
    assert.equal(median([100, 9, 20]), 20); // as numbers, not as text
    assert.throws(() => median([]), RangeError);
  });

  test("is compared round by round, so that a slow moment that both had does not count", () => {
    assert.equal(ratio([200, 20, 210], [100, 10, 105]), 2);
    assert.equal(ratio([50, 60, 5], [100, 60, 10]), 0.5);
    assert.throws(() => ratio([1, 2], [1]), /expected 1 rounds, got 2/);
  });

  test("has the slowest and the fastest round, and the first contender as measure", () => {
    const [base, other] = figures(question(), [[100, 300, 200], [50, 60, 400]]);
    assert.deepEqual(base, {
      question: "q",
      contender: "a",
      unit: "x/s",
      rate: 200,
      min: 100,
      max: 300,
      ratio: 1,
      rounds: 3,
    });
    assert.deepEqual([other?.rate, other?.min, other?.max, other?.ratio], [
      60,
      50,
      400,
      0.5,
    ]);
  });

  test("is shown with three digits in an aligned table", () => {
    assert.deepEqual([123_456, 9_876, 12.345, 0.1234].map(digits), [
      "123,000",
      "9,880",
      "12.3",
      "0.12",
    ]);
    const lines = table(figures(question(), [[123_456], [1_000]])).split("\n");
    assert.deepEqual(lines, [
      "| question | contender |    rate |     min |     max | ratio | unit |",
      "| -------- | --------- | ------: | ------: | ------: | ----: | ---- |",
      "| q        | a         | 123,000 | 123,000 | 123,000 |  1.00 | x/s  |",
      "| q        | b         |   1,000 |   1,000 |   1,000 |  0.01 | x/s  |",
    ]);
  });
});

describe("a race", () => {
  test("runs every contender in every round, each round beginning with another, and does not count the warm-up", async () => {
    const order: string[] = [];
    const contender = (name: string, ms: number) => ({
      name,
      run() {
        order.push(name);
        return Promise.resolve({
          count: 10,
          ms: order.length <= 2 ? 9_999 : ms,
        });
      },
    });
    const said: string[] = [];
    const [a, b] = await race(
      {
        name: "q",
        unit: "x/s",
        contenders: [contender("a", 10), contender("b", 5)],
      },
      { rounds: 3, progress: (text) => said.push(text) },
    );
    assert.equal(order.join(""), "ab" + "ba" + "ab" + "ba");
    assert.deepEqual([a?.rate, a?.min, a?.rounds, b?.rate, b?.ratio], [
      1_000,
      1_000,
      3,
      2_000,
      2,
    ]);
    assert.deepEqual([said[0], said.at(-1)], [
      "q: a, warm-up",
      "q: a, round 3 of 3",
    ]);
  });

  test("ends with the first run that fails, and says which", async () => {
    const failing = {
      name: "b",
      run: () => Promise.reject(new Error("lost one")),
    };
    const options = { rounds: 3, progress: () => {} };
    await assert.rejects(
      race({ ...question(), contenders: [failing] }, options),
      /q: b: lost one/,
    );
  });

  test("rotates", () => {
    assert.deepEqual([rotated(3, 0), rotated(3, 1), rotated(3, 5)], [
      [0, 1, 2],
      [1, 2, 0],
      [2, 0, 1],
    ]);
  });
});

describe("a run is not counted", () => {
  test("if a result is not as expected", () => {
    verify("events", 3, 3);
    assert.throws(
      () => verify("events", 2, 3),
      /expected events to be 3, got 2/,
    );
    assert.throws(() => verify("events", undefined, 3), /got undefined/);
  });

  test("if an event was lost, handled twice, not acknowledged, or never published", () => {
    const numbers = makeEvents(3).map(({ body }) => numberOf(body));
    const complete = tally(3);
    for (const number of numbers) complete.handle(number);
    assert.throws(() => complete.check(), /acknowledgements/);
    complete.acked(3);
    assert.equal(complete.done, true);
    complete.check();

    assert.throws(() => complete.handle(numbers[0] ?? 0), /handled before/);
    assert.throws(
      () => complete.handle((numbers[2] ?? 0) + 1),
      /handled before/,
    );

    const lost = tally(3);
    for (const number of numbers.slice(1)) lost.handle(number);
    lost.acked(3);
    assert.throws(() => lost.check(), /events handled to be 3, got 2/);
  });
});

describe("the events", () => {
  test("are valid CloudEvents of one size under ids of their own, also from one call to the next", () => {
    const events = [...makeEvents(50), ...makeEvents(50)];
    assert.equal(new Set(events.map(({ id }) => id)).size, 100);
    assert.equal(new Set(events.map(({ body }) => body.length)).size, 1);
    for (const { id, type, body } of events) {
      const message = decodeMessage(body);
      assert.deepEqual([message.id, message.type], [id, type]);
    }
  });

  test("come in batches with nothing left out", () => {
    assert.deepEqual(inBatches([1, 2, 3, 4, 5], 2), [[1, 2], [3, 4], [5]]);
    assert.deepEqual(inBatches([], 2), []);
  });
});

function numberOf(body: string): number {
  return decodeMessage<{ number: number }>(body).data.number;
}

function question(): Question {
  const run = () => Promise.resolve({ count: 1, ms: 1 });
  return {
    name: "q",
    unit: "x/s",
    contenders: [{ name: "a", run }, { name: "b", run }],
  };
}
