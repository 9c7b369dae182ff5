import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { type HorizonRow, watermark } from "../../src/postgres/watermark.ts";

const NEVER = 2n ** 63n - 1n;

describe("watermark", () => {
  test("knows nothing at first, and asks for a pair", () => {
    assert.deepEqual(watermark().values({ mayMark: true }), [0n, 0n, [], []]);
  });

  test("keeps a pair until everything up to it is final", () => {
    const mark = watermark();
    assert.equal(mark.learn(row({ safe: "0", newest: "10", mark: "700" })), 0n);
    assert.deepEqual(mark.values({ mayMark: true }), [0n, 10n, [10n], [700n]]);
    assert.equal(
      mark.learn(row({ safe: "10", newest: "12", mark: "705" })),
      10n,
    );
    assert.deepEqual(mark.values({ mayMark: true }), [10n, 12n, [12n], [705n]]);
    assert.equal(
      mark.learn(row({ safe: "12", newest: "12", mark: null })),
      12n,
    );
    assert.deepEqual(mark.values({ mayMark: true }), [12n, 12n, [], []]);
  });

  test("never asks for a pair inside a transaction, whose xid may be older than what it sees", () => {
    const mark = watermark();
    assert.deepEqual(mark.values({ mayMark: false }), [0n, NEVER, [], []]);
  });

  test("never goes back when replies of concurrent reads arrive in another order", () => {
    const mark = watermark();
    mark.learn(row({ safe: "20", newest: "25", mark: "800" }));
    assert.equal(
      mark.learn(row({ safe: "10", newest: "15", mark: "790" })),
      10n,
      "what that read may return",
    );
    assert.deepEqual(mark.values({ mayMark: true }), [20n, 25n, [25n], [800n]]);
  });

  test("keeps a bounded number of pairs, the oldest of them, while a long transaction holds them up", () => {
    const mark = watermark();
    for (let n = 1; n <= 1_000; n++) {
      mark.learn(row({ safe: "0", newest: String(n), mark: String(700 + n) }));
    }
    const [, newest, positions, xids] = mark.values({ mayMark: true }) as [
      bigint,
      bigint,
      bigint[],
      bigint[],
    ];
    assert.equal(positions.length, 32);
    assert.equal(xids.length, 32);
    assert.deepEqual([positions[0], positions.at(-1), newest], [
      1n,
      1_000n,
      1_000n,
    ]);
  });

  test("refuses a read-only replica, where nothing could be final", () => {
    const onReplica = () => watermark().learn(row({ replica: true }));
    assert.throws(
      onReplica,
      (error) => isMillstreamError(error, "UNSUPPORTED"),
    );
  });

  test("forgets its pairs when another server answers, which may count its xids differently", () => {
    const mark = watermark();
    mark.learn(row({ safe: "5", newest: "10", mark: "700" }));
    mark.learn(row({ safe: "5", newest: "10", began: "one o'clock" }));
    assert.deepEqual(mark.values({ mayMark: true }), [5n, 5n, [], []]);
  });
});

function row(fields: Partial<HorizonRow>): HorizonRow {
  return { safe: "0", newest: "0", mark: null, replica: false, began: "noon", ...fields };
}
