import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import type { StoredEvent } from "../../src/ports/event_store.ts";
import type { SqlDriver } from "../../src/ports/sql.ts";
import { postgres } from "../../src/postgres/mod.ts";
import { eventually, pause } from "../support/wait.ts";
import { dropSchema, events, openDriver, server, uniqueSchema } from "./postgres_fixture.ts";

const WRITERS = 6;
const READERS = 2;
const WRITING_MS = 6_000;
const STREAMS = 8;

describe("the order of all events", { skip: server.skip }, () => {
  const schema = uniqueSchema("order");
  after(() => dropSchema(schema));

  test("writers that sleep, write elsewhere first, and roll back: readers skip, invert and repeat nothing", async () => {
    const admin = postgres({ driver: openDriver(), schema });
    await admin.start();
    const goal: Goal = {};
    const readers = Array.from({ length: READERS }, () => readTo(goal));
    const naive = naiveReader(goal);

    const rollbacks = (await Promise.all(Array.from({ length: WRITERS }, (_, n) => writer(n))))
      .reduce((
        a,
        b,
      ) => a + b);
    const all = await admin.sql<{ pos: string }>`select pos from ${admin.sql(schema)}.events order by pos`;
    goal.position = BigInt(all.at(-1)?.pos ?? 0);
    assert.ok(all.length > 150, `only ${all.length} events were written`);
    assert.ok(
      rollbacks > 4,
      `only ${rollbacks} transactions were rolled back`,
    );
    for (const read of await Promise.all(readers)) {
      assert.deepEqual(verdict(read, all.map(({ pos }) => pos)), {
        skipped: 0,
        repeated: 0,
        outOfOrder: 0,
        inverted: 0,
      });
    }
    // The proof that the test bites: reading on behind the last position seen loses events in the very same run.
    const seen = await naive;
    const skipped = all.filter(({ pos }) => !seen.has(pos)).length;
    assert.ok(
      skipped > 0,
      "the naive reader skipped nothing: the writers did not overlap",
    );
    await admin[Symbol.asyncDispose]();
  });

  /** Transactions of random length until the time is up; returns how many were rolled back. */
  async function writer(number: number): Promise<number> {
    const store = postgres({ driver: openDriver(), schema });
    const end = performance.now() + WRITING_MS;
    let rollbacks = 0;
    for (let round = 0; performance.now() < end; round++) {
      const some = events(1 + round % 3);
      const work = store.transaction(async (tx) => {
        if (Math.random() < 0.5) {
          await tx.inbox.record("unrelated", `${number}-${round}`); // an old xid
        }
        await tx.sql`select pg_sleep(${Math.random() * 0.008})`;
        const stream = `hot-${Math.floor(Math.random() * STREAMS)}`;
        await tx.events.append([{ stream, expected: "any", events: some }]);
        await tx.sql`select pg_sleep(${Math.random() * 0.008})`;
        if (Math.random() < 0.1) throw ROLLBACK;
      });
      await work.catch((error) => {
        if (error !== ROLLBACK) throw error;
        rollbacks++;
      });
    }
    await store[Symbol.asyncDispose]();
    return rollbacks;
  }

  /** Reads until it has come to the goal, which may take a while if anybody keeps a transaction open. */
  async function readTo(goal: Goal): Promise<readonly StoredEvent[]> {
    const store = postgres({ driver: openDriver(), schema });
    const read: StoredEvent[] = [];
    const deadline = performance.now() + WRITING_MS + 60_000;
    for (
      let position = 0n;
      position < (goal.position ?? position + 1n) &&
      performance.now() < deadline;
    ) {
      const page = await store.events.readAll(position, {
        limit: 1 + Math.floor(Math.random() * 50),
        waitMs: 20,
      });
      read.push(...page.events);
      position = page.position;
    }
    await store[Symbol.asyncDispose]();
    return read;
  }

  async function naiveReader(goal: Goal): Promise<ReadonlySet<string>> {
    const driver: SqlDriver = openDriver();
    const seen = new Set<string>();
    let last = "0";
    for (let more = true; more;) {
      more = goal.position === undefined;
      const sql = `select pos from ${schema}.events where pos > $1::bigint order by pos`;
      for (const { pos } of await driver.query<{ pos: string }>(sql, [last])) {
        seen.add(pos);
        last = pos;
      }
      await pause(2);
    }
    await driver[Symbol.asyncDispose]();
    return seen;
  }
});

describe("the first read", { skip: server.skip }, () => {
  const schema = uniqueSchema("first");
  after(() => dropSchema(schema));

  test("an append that commits late: a reader that comes between shows nothing behind it, and then both", async () => {
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    const [early, late] = [events(1), events(1)];
    const fresh = postgres({ driver: openDriver(), schema });
    await store.transaction(async (tx) => {
      await tx.events.append([{ stream: "late", expected: 0, events: late }]);
      await store.events.append([{
        stream: "early",
        expected: 0,
        events: early,
      }]);
      const page = await fresh.events.readAll(0n, { limit: 10, waitMs: 50 });
      assert.deepEqual([page.events, page.position], [[], 0n]);
    });
    const page = await fresh.events.readAll(0n, { limit: 10, waitMs: 30_000 });
    assert.deepEqual(page.events.map(({ stream }) => stream), [
      "late",
      "early",
    ]);
    await fresh[Symbol.asyncDispose]();
    await store[Symbol.asyncDispose]();
  });

  test("a read inside a transaction that has appended: it neither shows its own events nor moves past them", async () => {
    const store = postgres({ driver: openDriver(), schema });
    await store.start();
    // All that the test before wrote: a transaction of anyone on this server holds it back.
    const before = await eventually(async () => {
      const page = await store.events.readAll(0n, { limit: 100 });
      return page.events.length >= 2 && page;
    });
    await store.transaction(async (tx) => {
      await tx.events.append([{
        stream: "own",
        expected: 0,
        events: events(2),
      }]);
      const inside = await tx.events.readAll(before.position, {
        limit: 100,
        waitMs: 1_000,
      });
      assert.deepEqual([inside.events, inside.position], [[], before.position]);
    });
    const afterwards = await store.events.readAll(before.position, {
      limit: 100,
      waitMs: 30_000,
    });
    assert.deepEqual(afterwards.events.map(({ stream }) => stream), [
      "own",
      "own",
    ]);
    await store[Symbol.asyncDispose]();
  });
});

/** How far readers have to come; set when all is written. */
interface Goal {
  position?: bigint;
}

const ROLLBACK = new Error("rolled back on purpose");

function verdict(
  read: readonly StoredEvent[],
  all: readonly string[],
): Record<string, number> {
  const seen = new Set<string>();
  const versions = new Map<string, number>();
  let [repeated, outOfOrder, inverted, last] = [0, 0, 0, 0n];
  for (const { position, stream, version } of read) {
    if (seen.has(String(position))) repeated++;
    seen.add(String(position));
    if (position <= last) outOfOrder++;
    last = position;
    if (version !== (versions.get(stream) ?? 0) + 1) inverted++;
    versions.set(stream, version);
  }
  return {
    skipped: all.filter((pos) => !seen.has(pos)).length,
    repeated,
    outOfOrder,
    inverted,
  };
}
