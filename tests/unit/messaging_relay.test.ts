/** What the relay does with messages, topics and brokers that fail. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MillstreamError } from "../../src/core/errors.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import { startRelay } from "../../src/messaging/relay.ts";
import { republishSince } from "../../src/messaging/republish.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import { virtualClock } from "../../src/testing/mod.ts";

const refusal = new MillstreamError("PAYLOAD_TOO_LARGE", "too large");
const outage = new MillstreamError("UNAVAILABLE", "no connection");

test("a message that the broker refuses: its lane waits for it, others go on; given up, it is a dead letter, and its lane goes on", async () => {
  const { relay, add, sent, seen, store, clock } = world((message) =>
    message.id === "k2" ? refusal : undefined
  );
  await add("k1", "x1", "k2", "x2", "-1", "k3");
  await clock.advance(100);
  assert.deepEqual(byLane(sent()), ["-1", "k1", "x1", "x2"]);
  await add("x3");
  await clock.advance(2_000);
  assert.deepEqual(byLane(sent()), ["-1", "k1", "x1", "x2", "x3"]);
  await clock.advance(60_000);
  assert.deepEqual(byLane(sent()), ["-1", "k1", "k3", "x1", "x2", "x3"]);
  assert.equal(seen.filter(({ kind }) => kind === "retried").length, 5);
  const [letter, ...others] = await store.outboxDeadLetters.list({}, { limit: 10 });
  assert.deepEqual([letter?.id, letter?.attempts, letter?.failure.error], ["k2", 6, "PAYLOAD_TOO_LARGE"]);
  assert.equal(others.length, 0);
  assert.equal(relay.health().healthy, true);
  await relay.stop();
});

test("a dead letter that is redriven is sent once the broker takes it", async () => {
  const { relay, add, sent, store, clock, refuse } = world(() => refusal);
  await add("k1");
  await clock.advance(60_000);
  const [letter] = await store.outboxDeadLetters.list({}, { limit: 1 });
  refuse(() => undefined);
  await store.outboxDeadLetters.redrive(letter?.deadLetterId ?? "");
  await clock.advance(1_000);
  assert.deepEqual([sent(), await store.outboxDeadLetters.count({})], [["k1"], 0]);
  await relay.stop();
});

test("a broker that is down for an hour: nothing counts against the messages, and all go out in their order", async () => {
  const { relay, add, sent, store, clock, refuse, calls } = world(() => outage);
  await add("a1", "b1", "c1", "d1", "-1", "a2");
  await clock.advance(3_600_000);
  assert.equal(relay.health().healthy, false);
  assert.match(relay.health().warning ?? "", /oldest unsent message has waited for 3[56]\d\d s/);
  assert.ok(calls() < 5_000, `the broker was called ${calls()} times`);
  assert.deepEqual(await store.outboxDeadLetters.list({}, { limit: 1 }), []);
  for (const { attempts } of await store.outbox.pending(10)) assert.equal(attempts, 0);
  refuse(() => undefined);
  await clock.advance(20_000);
  assert.deepEqual(sent(), ["a1", "b1", "c1", "d1", "-1", "a2"]);
  assert.equal(relay.health().warning, undefined);
  await relay.stop();
});

test("a message that breaks the connection each time is found because others pass, and given up", async () => {
  const { relay, add, sent, store, clock } = world((message) => message.id === "b1" ? outage : undefined);
  await add("a1", "b1", "c1", "b2", "a2");
  for (let second = 0; second < 300; second++) {
    await clock.advance(1_000);
    await add(`x${second}`);
  }
  await clock.advance(20_000);
  assert.deepEqual(byLane(sent()).slice(0, 4), ["a1", "a2", "b2", "c1"]);
  assert.deepEqual(sent().slice(-1), ["x299"]);
  assert.deepEqual((await store.outboxDeadLetters.list({}, { limit: 9 })).map(({ id }) => id), ["b1"]);
  await relay.stop();
});

test("a topic whose publishes hang holds up no other", async () => {
  const { relay, store, sent, clock } = world((message) =>
    message.id === "slow" ? new Promise(() => {}) : undefined
  );
  await store.outbox.add([
    { topic: "slow", id: "slow", type: "t", body: "{}" },
    { topic: "quick", id: "quick", type: "t", body: "{}" },
  ]);
  await clock.advance(50);
  assert.deepEqual(sent(), ["quick"]);
  assert.deepEqual((await store.outbox.pending(10)).map(({ id }) => id), ["slow"]);
  void relay;
});

test("a broker that lost what it had confirmed gets it again, in order, under the same ids, and nothing older", async () => {
  const { relay, add, sent, store, clock, forget } = world(() => undefined);
  await add("a1", "b1");
  await clock.advance(60_000);
  const since = clock.now();
  await add("a2", "b2", "a3");
  await clock.advance(1_000);
  forget();
  assert.equal(await republishSince(store, since), 3);
  await add("a4");
  await clock.advance(5_000);
  assert.deepEqual(sent(), ["a2", "b2", "a3", "a4"]);
  await relay.stop();
});

test("sent just before the loss and noted after it: the note is refused, and the message is sent again", async () => {
  // Interleaving: the relay publishes; the broker confirms and dies; republishSince; the relay wakes up and marks.
  let confirm = (): void => {};
  const { relay, add, sent, store, clock, refuse, forget } = world(() =>
    new Promise<undefined>((resolve) => confirm = () => resolve(undefined))
  );
  await add("a1");
  await clock.advance(200);
  await republishSince(store, 0);
  refuse(() => undefined);
  confirm();
  await Promise.resolve();
  forget();
  await clock.advance(10_000);
  assert.deepEqual(sent().slice(-1), ["a1"]);
  assert.equal((await store.outbox.pending(1)).length, 0);
  await relay.stop();
});

/** Lane after lane: nothing is promised about the order between them. */
function byLane(ids: readonly string[]): readonly string[] {
  return [...ids].sort((a, b) => a[0]! < b[0]! ? -1 : a[0]! > b[0]! ? 1 : 0);
}

type Verdict = (message: EncodedMessage) => Error | undefined | Promise<Error | undefined>;

/** A relay to a broker that takes messages as `verdict` says: a call with one that it does not take fails as a whole. */
function world(verdict: Verdict) {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const seen: Observation[] = [];
  let sent: string[] = [];
  let calls = 0;
  const relay = startRelay({
    store,
    clock,
    observer: (one) => void seen.push(one),
    random: () => 0.999,
    owner: "p1",
    publisher: {
      async publish(_topic, messages) {
        calls++;
        for (const message of messages) {
          const failure = await verdict(message);
          if (failure) throw failure;
        }
        sent.push(...messages.map(({ id }) => id));
      },
    },
  });
  return {
    clock,
    store,
    seen,
    relay,
    sent: () => sent,
    calls: () => calls,
    forget: () => void (sent = []),
    refuse: (next: Verdict) => void (verdict = next),
    /** Messages whose key is their first character, or none for `-`. */
    add: (...ids: string[]) =>
      store.outbox.add(ids.map((id) => ({
        topic: "t",
        id,
        type: "t",
        body: "{}",
        ...(id.startsWith("-") ? {} : { key: id[0]! }),
      }))),
  };
}
