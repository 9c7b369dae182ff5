/**
 * Reading the whole store: order, filters, waiting.
 *
 * @module
 */
import type { AllReadOptions, StoredEvent } from "../../../ports/event_store.ts";
import { beside, deepEqual, equal, eventually, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";

/** Registers the tests about {@linkcode EventStore.readAll}. */
export function readAllTests({ test }: StoreSuite): void {
  test("reads all streams in order of position, page by page, each event once", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const streams = [world.unique("a"), world.unique("b"), world.unique("c")];
    const appended: string[] = [];
    for (let n = 0; n < 12; n++) {
      const some = world.events(n % 3 + 1);
      await events.append([{ stream: streams[n % 3]!, expected: "any", events: some }]);
      appended.push(...idsOf(some));
    }
    for (const limit of [1, 5, 1_000]) {
      const read = await readUntil(world, start, appended.length, { limit });
      deepEqual(idsOf(read), appended, `ids, ${limit} at a time`);
      checkOrder(read);
    }
  });

  test("divides the streams into lanes: each event is in one, and a stream stays in its own", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const all: StoredEvent[] = [];
    for (let n = 0; n < 40; n++) {
      const stream = world.unique("lane");
      await events.append([{ stream, expected: 0, events: world.events(2) }]);
    }
    all.push(...await readUntil(world, start, 80, { limit: 1_000 }));
    for (const count of [1, 3]) {
      const lanes = await Promise.all(Array.from({ length: count }, async (_, index) => {
        const page = await events.readAll(start, { limit: 1_000, lane: { index, of: count } });
        ok(page.position >= all.at(-1)!.position, "how far a lane looked");
        return page.events;
      }));
      for (const lane of lanes) checkOrder(lane);
      deepEqual(idsOf(lanes.flat()).toSorted(), idsOf(all).toSorted(), `the events of ${count} lanes`);
      const laneOf = new Map<string, number>();
      for (const [index, lane] of lanes.entries()) {
        ok(lane.length > 0, `lane ${index} of ${count} is empty`);
        for (const { stream } of lane) equal(laneOf.get(stream) ?? index, index, `the lane of ${stream}`);
        for (const { stream } of lane) laneOf.set(stream, index);
      }
    }
    await rejects(
      events.readAll(start, { limit: 1, lane: { index: 2, of: 2 } }),
      "INVALID_ARGUMENT",
      "lane 2 of 2",
    );
  });

  test("knows how far it can look, and whether a stream has an event", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const [stream, other] = [world.unique("s"), world.unique("s")];
    const one = world.event();
    const [result] = await events.append([{ stream, expected: 0, events: [one] }]);
    await events.append([{ stream: other, expected: 0, events: [world.event()] }]);
    await readUntil(world, start, 2, { limit: 10 });
    ok(await events.head() > result!.position, "the head");
    equal(await events.has(stream, one.id), true, "its own event");
    equal(await events.has(other, one.id), false, "another stream's event");
    equal(await events.has(world.unique("s"), one.id), false, "an unknown stream");
  });

  test("finds events by type, correlation id and time", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const stream = world.unique("s");
    const a = world.event({}, { type: "a.happened" });
    const b = { ...world.event({}, { type: "b.happened" }), correlationId: "c-1" };
    const c = { ...world.event({}, { type: "c.happened" }), correlationId: "c-2" };
    await events.append([{ stream, expected: 0, events: [a, b, c] }]);
    await world.sleep(60);
    const since = world.clock.now();
    await world.sleep(60);
    const d = { ...world.event({}, { type: "a.happened" }), correlationId: "c-1" };
    await events.append([{ stream, expected: 3, events: [d] }]);
    await readUntil(world, start, 4, { limit: 10 });
    const find = async (options: Omit<AllReadOptions, "limit">): Promise<readonly string[]> =>
      idsOf((await events.readAll(start, { limit: 10, ...options })).events);
    deepEqual(await find({ types: ["a.happened"] }), idsOf([a, d]), "one type");
    deepEqual(await find({ types: ["c.happened", "b.happened"] }), idsOf([b, c]), "two types");
    deepEqual(await find({ types: ["nothing.happened"] }), [], "a type that does not exist");
    deepEqual(await find({ correlationId: "c-1" }), idsOf([b, d]), "one correlation id");
    deepEqual(await find({ correlationId: "c-3" }), [], "a correlation id that does not exist");
    deepEqual(await find({ since: 0 }), idsOf([a, b, c, d]), "since ever");
    deepEqual(await find({ since }), idsOf([d]), "since a moment ago");
    deepEqual(await find({ since: since + 3_600_000 }), [], "since the future");
    deepEqual(await find({ types: ["a.happened"], correlationId: "c-1", since }), idsOf([d]), "all three");
    const page = await events.readAll(start, { limit: 1, types: ["a.happened"] });
    deepEqual(idsOf(page.events), [a.id], "the first of a type");
    const next = await events.readAll(page.position, { limit: 1, types: ["a.happened"] });
    deepEqual(idsOf(next.events), [d.id], "the next of a type");
  });

  test("finds events by the category of their streams", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const category = world.unique("order");
    const inside = world.events(3);
    const streams = [`${category}-1`, `${category}-2`, `${category}-line-1`];
    for (const [n, stream] of streams.entries()) {
      await events.append([{ stream, expected: 0, events: [inside[n]!] }]);
    }
    for (const stream of [category, `${category}s-1`, `x${category}-1`, `${category}%1`]) {
      await events.append([{ stream, expected: 0, events: world.events(1) }]);
    }
    await readUntil(world, start, 7, { limit: 10 });
    const find = async (name: string): Promise<readonly string[]> =>
      idsOf((await events.readAll(start, { limit: 10, category: name })).events);
    deepEqual(await find(category), idsOf(inside), "a category");
    deepEqual(await find(`${category}-line`), idsOf(inside.slice(2)), "a longer one");
    deepEqual(await find(category.slice(0, -1)), [], "half of a name");
    deepEqual(await find("%"), [], "a wildcard");
    await rejects(events.readAll(0n, { limit: 1, category: "" }), "INVALID_ARGUMENT", "an empty category");
  });

  test("refuses a position behind all events, which would wait for ever", async (world) => {
    const { events } = world.store;
    const end = await world.end();
    for (const after of [end + 1_000_000n, 2n ** 62n]) {
      const error = await rejects(
        events.readAll(after, { limit: 1 }),
        "INVALID_ARGUMENT",
        `a read after ${after}`,
      );
      equal(error.details.after, String(after), "details");
    }
    for (const after of [-1n, 2n ** 64n, 1 as unknown as bigint]) {
      await rejects(events.readAll(after, { limit: 1 }), "INVALID_ARGUMENT", `a read after ${after}`);
    }
    deepEqual(
      await events.readAll(end, { limit: 1 }),
      { events: [], position: end },
      "a read after the last one",
    );
  });

  test("moves on past events that do not match", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const stream = world.unique("s");
    const results = await events.append([{ stream, expected: 0, events: world.events(50) }]);
    const last = results[0]!.position;
    let position = start;
    await eventually(world.clock, world.patienceMs, "the position is that of the last event", async () => {
      const page = await events.readAll(position, { limit: 10, types: ["nothing.happened"] });
      deepEqual(page.events, [], "events");
      ok(page.position >= position, "the position never goes back");
      position = page.position;
      return position >= last;
    });
    equal((await events.readAll(position, { limit: 10 })).events.length, 0, "events after it");
    const [next] = await events.append([{ stream, expected: 50, events: world.events(1) }]);
    ok(next!.position > position, "what is appended later comes after it");
  });

  test("waits for the next event, and returns when the time is up", async (world) => {
    const { events } = world.store;
    const other = await world.connect();
    const before = await world.end();
    const stream = world.unique("s");
    const [first] = await events.append([{ stream, expected: 0, events: world.events(1) }]);
    await readUntil(world, before, 1, { limit: 10 });
    const start = world.clock.monotonic();
    const empty = await events.readAll(first!.position, { limit: 10, waitMs: 200 });
    deepEqual(empty.events, [], "events before the next append");
    ok(world.clock.monotonic() - start >= 190, "the read did not wait");
    ok(empty.position >= first!.position, "the position never goes back");

    const types = ["awaited.happened"];
    const reading = beside(events.readAll(empty.position, { limit: 10, waitMs: world.patienceMs, types }));
    await world.sleep(100);
    await other.events.append([{ stream, expected: 1, events: world.events(3) }]);
    const appended = world.clock.monotonic();
    const awaited = world.event({}, { type: "awaited.happened" });
    await other.events.append([{ stream, expected: 4, events: [awaited] }]);
    const found = [...(await reading).events];
    for (let { position } = await reading; found.length === 0;) {
      const page = await events.readAll(position, { limit: 10, waitMs: world.patienceMs, types });
      found.push(...page.events);
      position = page.position;
    }
    deepEqual(idsOf(found), [awaited.id], "what the waiting read gets");
    ok(world.clock.monotonic() - appended < 3_000, "the waiting read did not notice the append");
  });

  test("stops waiting by its signal", async (world) => {
    const { events } = world.store;
    const start = await world.end();
    const controller = new AbortController();
    const { signal } = controller;
    const reading = beside(
      rejects(events.readAll(start, { limit: 1, waitMs: 60_000, signal }), "ABORTED", "readAll"),
    );
    await world.sleep(100);
    controller.abort();
    await reading;
    await rejects(events.readAll(start, { limit: 1, signal }), "ABORTED", "readAll with an aborted signal");
  });

  test("never skips and never inverts, while transactions of different length commit and roll back", async (world) => {
    const start = await world.end();
    const stores = [world.store, await world.connect()];
    const streams = Array.from({ length: 4 }, () => world.unique("s"));
    const rollback = new Error("rolled back on purpose");
    const committed: string[] = [];
    let writing = true;
    async function write(writer: number): Promise<void> {
      for (let n = 0; n < 8; n++) {
        const some = world.events(1 + n % 2);
        const pause = (writer * 7 + n * 13) % 23;
        const work = stores[writer % 2]!.transaction(async ({ events, inbox }) => {
          // A writer that touches something else first has an older transaction than its place in the stream suggests.
          if (n % 3 === 0) await inbox.record(`group-${writer}`, `m-${n}`);
          await world.sleep(pause);
          await events.append([{ stream: streams[(writer + n) % 4]!, expected: "any", events: some }]);
          await world.sleep(22 - pause);
          if (n === 5) throw rollback;
          return idsOf(some);
        });
        committed.push(
          ...await work.catch((error) => {
            if (error !== rollback) throw error;
            return [];
          }),
        );
      }
    }
    async function tail(): Promise<readonly StoredEvent[]> {
      const read: StoredEvent[] = [];
      for (let position = start, quiet = 0; quiet < 3;) {
        const page = await world.store.events.readAll(position, { limit: 7, waitMs: 50 });
        ok(page.position >= position, "the position never goes back");
        read.push(...page.events);
        position = page.position;
        quiet = writing || page.events.length > 0 || read.length < committed.length ? 0 : quiet + 1;
      }
      return read;
    }
    const writers = Promise.all([0, 1, 2, 3, 4, 5].map(write)).finally(() => writing = false);
    const [read] = await Promise.all([tail(), writers]);
    deepEqual([...idsOf(read)].sort(), committed.sort(), "events read while they were written");
    checkOrder(read);
  });
}

async function readUntil(
  world: StoreWorld,
  start: bigint,
  count: number,
  options: AllReadOptions,
): Promise<readonly StoredEvent[]> {
  const all: StoredEvent[] = [];
  let position = start;
  await eventually(world.clock, world.patienceMs, `${count} events in the store`, async () => {
    for (let length = 1; length > 0;) {
      const page = await world.store.events.readAll(position, options);
      ok(
        page.events.length <= options.limit,
        `a page of at most ${options.limit} has ${page.events.length} events`,
      );
      length = page.events.length;
      all.push(...page.events);
      position = page.position;
    }
    return all.length >= count;
  });
  return all;
}

/** Positions increase, and so do the versions of each stream, without gaps. */
function checkOrder(events: readonly StoredEvent[]): void {
  const versions = new Map<string, number>();
  for (const [index, { position, stream, version }] of events.entries()) {
    if (index > 0) ok(position > events[index - 1]!.position, "positions increase");
    equal(version, (versions.get(stream) ?? 0) + 1, `next version of ${stream}`);
    versions.set(stream, version);
  }
}
