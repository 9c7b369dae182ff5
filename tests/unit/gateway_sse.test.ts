import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { aborted } from "../../src/core/clock.ts";
import { type Feed, feed, type FeedOptions } from "../../src/gateway/sse.ts";
import { stoppedClock } from "./gateway_clock.ts";
import type { TopicLog, TopicPage, TopicReadOptions } from "../../src/ports/broker.ts";

type Entry = TopicPage["entries"][number];

function entry(position: number, extra: Partial<Entry> = {}): Entry {
  return {
    id: `e${position}`,
    type: "order.placed",
    body: `{"n":${position}}`,
    position: `p${position}`,
    ...extra,
  };
}

interface Read {
  readonly after: string;
  readonly options: TopicReadOptions;
  answer(page: TopicPage): void;
  fail(error: Error): void;
}

/** A log whose reads the test answers itself. */
function scriptedLog(): TopicLog & {
  readonly reads: Read[];
  next(): Promise<Read>;
} {
  const reads: Read[] = [];
  const waiting: Array<(read: Read) => void> = [];
  return {
    reads,
    next: () => new Promise((resolve) => waiting.push(resolve)),
    read(_topic, after, options) {
      return new Promise((resolve, reject) => {
        options.signal?.addEventListener("abort", () => reject(aborted(options.signal)), { once: true });
        const read = { after, options, answer: resolve, fail: reject };
        reads.push(read);
        waiting.shift()?.(read);
      });
    },
  };
}

const EMPTY: TopicPage = { entries: [], next: "p0", gap: false };

function setup(options: Partial<FeedOptions> = {}) {
  const clock = stoppedClock();
  const log = scriptedLog();
  const ends: unknown[] = [];
  const stream = feed({
    log,
    topic: "orders",
    after: "now",
    first: EMPTY,
    wanted: () => true,
    clock,
    heartbeatMs: 15_000,
    stallMs: 30_000,
    onEnd: (error) => void ends.push(error),
    ...options,
  });
  return { clock, log, ends, stream, client: reader(stream) };
}

function reader(stream: Feed) {
  const body = stream.body.getReader();
  return {
    async text(): Promise<string> {
      const { done, value } = await body.read();
      return done ? "(end)" : new TextDecoder().decode(value);
    },
    cancel: () => body.cancel(),
  };
}

describe("an event stream", () => {
  test("begins with the position, so that a client that is cut off before the first event misses none", async () => {
    const { client } = setup();
    assert.equal(await client.text(), "retry: 3000\nid: p0\n\n");
  });

  test("does not move a resuming client past events it has not got yet", async () => {
    const { client } = setup({ after: "p1", first: { entries: [entry(2)], next: "p2", gap: false } });
    assert.equal(await client.text(), 'retry: 3000\n\nid: p2\nevent: order.placed\ndata: {"n":2}\n\n');
  });

  test("reads nothing from the broker before the client takes what it has", async () => {
    const { client, log } = setup();
    await Promise.resolve();
    assert.equal(log.reads.length, 0);
    await client.text();
    await Promise.resolve();
    assert.equal(log.reads.length, 0, "the client has not asked again");
    const asked = log.next();
    const text = client.text();
    (await asked).answer({ entries: [entry(1)], next: "p1", gap: false });
    assert.match(await text, /id: p1\n/);
    assert.equal(log.reads.length, 1);
  });

  test("says so where messages are missing, without an id of its own", async () => {
    const { client } = setup({ after: "p1", first: { entries: [entry(9)], next: "p9", gap: true } });
    const text = await client.text();
    assert.ok(text.includes('event: gap\ndata: {"after":"p1"}\n\nid: p9\n'), text);
    assert.ok(!text.split("event: gap")[0]!.includes("id:"));
  });

  test("sends a heartbeat with the position when nothing came for its time", async () => {
    const { client, log, clock } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    const read = await asked;
    assert.equal(read.options.waitMs, 15_000);
    clock.advance(15_000);
    read.answer({ entries: [], next: "p5", gap: false });
    assert.equal(await text, ": heartbeat\nid: p5\n\n");
  });

  test("sends heartbeats while everything that comes is filtered out", async () => {
    const { client, log, clock } = setup({ wanted: () => false });
    await client.text();
    let asked = log.next();
    const text = client.text();
    for (let n = 1; n <= 3; n++) {
      const read = await asked;
      assert.equal(read.options.waitMs, 15_000 - (n - 1) * 5_000);
      asked = log.next();
      clock.advance(5_000);
      read.answer({ entries: [entry(n)], next: `p${n}`, gap: false });
    }
    assert.equal(await text, ": heartbeat\nid: p3\n\n");
  });

  test("a page that is larger than a chunk is cut, and the rest read again from there", async () => {
    const big = "x".repeat(200_000);
    const entries = [1, 2, 3].map((n) => entry(n, { body: `"${n}${big}"` }));
    const { client, log } = setup({ after: "start", first: { entries, next: "p3", gap: false } });
    const text = await client.text();
    assert.ok(text.includes("id: p2\n") && !text.includes("id: p3\n"));
    const asked = log.next();
    const rest = client.text();
    const read = await asked;
    assert.equal(read.after, "p2");
    read.answer({ entries: [entries[2]!], next: "p3", gap: false });
    assert.match(await rest, /^id: p3\n/);
  });

  test("a body of several lines becomes several data lines, which the client joins again", async () => {
    const body = '{\n "a": 1,\r\n "b": 2\r}';
    const { client } = setup({ first: { entries: [entry(1, { body })], next: "p1", gap: false } });
    assert.ok((await client.text()).endsWith('data: {\ndata:  "a": 1,\ndata:  "b": 2\ndata: }\n\n'));
  });

  for (
    const type of ["a\nid: forged", "a\r\ndata: forged", "gap", "error", "open", "über", "x".repeat(300)]
  ) {
    test(`an event of type ${JSON.stringify(type.slice(0, 20))} goes without a name`, async () => {
      const { client } = setup({ first: { entries: [entry(1, { type })], next: "p1", gap: false } });
      assert.equal(await client.text(), 'retry: 3000\n\nid: p1\ndata: {"n":1}\n\n');
    });
  }

  test("a position with characters that do not belong there is not sent as id", async () => {
    const { client } = setup({ first: { entries: [], next: "p1\ndata: forged", gap: false } });
    assert.equal(await client.text(), "retry: 3000\n\n");
  });
});

describe("the end of an event stream", () => {
  test("a client that takes nothing is closed after the stall time, and holds neither timer nor read", async () => {
    const { client, clock, ends, log } = setup();
    await client.text();
    clock.advance(29_999);
    assert.equal(ends.length, 0);
    clock.advance(1);
    assert.deepEqual(ends, [undefined]);
    assert.equal(clock.timers, 0);
    assert.equal(log.reads.length, 0);
    assert.equal(await client.text(), "(end)");
  });

  test("a client that never takes even the first byte is closed as well", () => {
    const { clock, ends } = setup();
    clock.advance(30_000);
    assert.deepEqual(ends, [undefined]);
    assert.equal(clock.timers, 0);
  });

  test("a client that waits for events is not stalled, however long that takes", async () => {
    const { client, clock, ends, log } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    const read = await asked;
    clock.advance(3_600_000);
    assert.equal(ends.length, 0);
    read.answer({ entries: [entry(1)], next: "p1", gap: false });
    assert.match(await text, /id: p1/);
  });

  test("a client that goes away while a read waits stops the read", async () => {
    const { client, clock, ends, log } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    const read = await asked;
    await client.cancel();
    assert.equal(read.options.signal?.aborted, true);
    assert.deepEqual(ends, [undefined]);
    assert.equal(clock.timers, 0);
    assert.equal(await text, "(end)");
  });

  test("closing it while a read waits ends the response", async () => {
    const { client, stream, ends, log, clock } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    await asked;
    stream.close();
    stream.close();
    assert.equal(await text, "(end)");
    assert.deepEqual(ends, [undefined]);
    assert.equal(clock.timers, 0);
  });

  test("a page that arrives after it was closed is dropped", async () => {
    const { client, stream, log, ends } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    const read = await asked;
    read.answer({ entries: [entry(1)], next: "p1", gap: false }); // closed before the pull sees it
    stream.close();
    assert.equal(await text, "(end)");
    assert.deepEqual(ends, [undefined]);
  });

  test("a broker that fails ends the response and is reported; the client comes back by itself", async () => {
    const { client, log, ends, clock } = setup();
    await client.text();
    const asked = log.next();
    const text = client.text();
    const error = new Error("down");
    (await asked).fail(error);
    assert.equal(await text, "(end)");
    assert.deepEqual(ends, [error]);
    assert.equal(clock.timers, 0);
  });
});
