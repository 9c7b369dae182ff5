/** Messages as stream entries, replies as errors, and keys. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ledger, placeOf } from "../../src/redis/delivery.ts";
import { decodeMessageFields, decodeState, encodeHeader } from "../../src/redis/entry.ts";
import { groupKeys } from "../../src/redis/keys.ts";
import { isMissingGroup, isOutage, replyError } from "../../src/redis/replies.ts";

test("a message survives the way through an entry's field, with and without a key", () => {
  for (
    const message of [
      { id: "a b", type: "order.placed", body: "{}" },
      { id: "ü✓", type: "T", key: "k {1} *", body: "" },
      { id: "0", type: "0", key: "0", body: "not json\t\n\u0000" },
    ]
  ) {
    assert.deepEqual(decodeMessageFields("1-0", [encodeHeader(message), message.body]), message);
  }
});

test("an entry of any other shape is still a message", () => {
  const event = '{"id":"e1","type":"t","partitionkey":"k"}';
  assert.deepEqual(decodeMessageFields("1-0", ["data", event]), {
    id: "e1",
    type: "t",
    key: "k",
    body: event,
  });
  for (const body of ["", "{", "null", "[]", '"x"', '{"id":7,"type":""}']) {
    assert.deepEqual(decodeMessageFields("1-0", ["a", "b", "c", body]), { id: "1-0", type: "unknown", body });
  }
  assert.deepEqual(decodeMessageFields("1-0", []), { id: "1-0", type: "unknown", body: "" });
  assert.deepEqual(decodeMessageFields("1-0", ["a\tb", "x"]).type, "unknown");
});

test("a state that cannot be read is that of a first attempt", () => {
  const state = { attempt: 3, firstFailedAt: 1700, redrives: 2 };
  assert.deepEqual(decodeState("3 1700 2"), state);
  for (const text of [undefined, "", "x y z", "0 0 0"]) {
    assert.deepEqual(decodeState(text), { attempt: 1, firstFailedAt: 0, redrives: 0 });
  }
});

test("a token says where the delivery stands, and any other text stands for nothing", () => {
  assert.deepEqual(placeOf("1:1700000000000-7:3"), { kind: 1, entryId: "1700000000000-7", count: 3 });
  for (
    const token of ["", "x", "1:2", "0:1-2", "0:1-2:x", "0:$:1", "0:-:1", "0:1-2 0:1"]
  ) {
    assert.deepEqual(placeOf(token), { kind: 0, entryId: "0-0", count: 0 });
  }
});

test("an error reply says whether trying again can help, also when a script of Redis 6 wraps it", () => {
  const codeOf = (reply: string): string => replyError("x", new Error(reply)).code;
  for (
    const kind of ["LOADING", "READONLY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "BUSY"]
  ) {
    assert.equal(codeOf(`${kind} some words`), "UNAVAILABLE");
  }
  assert.equal(codeOf("OOM command not allowed"), "OVERLOADED");
  assert.equal(codeOf("MISCONF Redis is configured to save"), "OVERLOADED");
  assert.equal(
    codeOf("ERR Error running script (call to f_1): @user_script:3: -OOM command not allowed"),
    "OVERLOADED",
  );
  for (
    const reply of ["BUSYGROUP Consumer Group name already exists", "WRONGTYPE x", "NOAUTH x", "ERR LOADING"]
  ) {
    assert.equal(codeOf(reply), "REJECTED");
  }
  assert.ok(isOutage(replyError("x", new Error("LOADING x"))));
  assert.ok(!isOutage(replyError("x", new Error("NOAUTH x"))));
  const wrapped = "ERR Error running script (call to f_1): @user_script:45: -NOGROUP No such key";
  for (
    const reply of ["NOGROUP No such key", "UNBLOCKED the stream key no longer exists", wrapped]
  ) {
    assert.ok(isMissingGroup(replyError("x", new Error(reply))), reply);
  }
});

test("all keys of a topic share one hash slot, and no two groups share a key", () => {
  const keys = [groupKeys("p", "t", "g"), groupKeys("p", "t", "g2")].map((
    one,
  ) => Object.values(one) as string[]);
  for (const key of keys.flat()) assert.match(key, /^p:\{t\}:[^{}]+$/);
  assert.deepEqual(keys[0]?.filter((key) => keys[1]?.includes(key)).length, 7, "only those of the topic");
});

test("the ledger remembers what is held until it is settled, lost or long over, and settled ones for a while", () => {
  const book = ledger();
  book.hold("a", 100);
  book.hold("b", 200);
  book.hold("c", 300);
  assert.equal(book.until("a"), 100);
  book.settle("a");
  book.lose("b");
  assert.deepEqual([book.until("a"), book.until("b"), book.until("never")], [0, 0, 0]);
  assert.deepEqual([book.isSettled("a"), book.isSettled("b"), book.isSettled("c")], [true, false, false]);
  assert.deepEqual(book.held(), ["c"]);
  book.expire(300);
  assert.deepEqual(book.held(), ["c"]);
  book.expire(301);
  assert.deepEqual(book.held(), []);
  for (let n = 0; n < 5_000; n++) book.settle(`s${n}`);
  assert.equal(book.isSettled("a"), false, "memory is bounded");
  assert.equal(book.isSettled("s4999"), true);
});
