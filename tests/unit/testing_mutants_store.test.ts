/**
 * The store suites must fail when a store breaks a promise: each of these stores breaks one, and names the test that
 * is there to find it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Store, StorePorts } from "../../src/ports/store.ts";
import { eventStoreConformance, storeConformance } from "../../src/testing/mod.ts";
import { failed, type Outcome, runInVirtualTime } from "./testing_in_virtual_time.ts";

type Break = (store: Store) => Store;

function run(break_: Break): Promise<readonly Outcome[]> {
  return runInVirtualTime(async ({ test, clock }) => {
    for (const suite of [storeConformance, eventStoreConformance]) {
      await suite({
        test,
        clock,
        create() {
          const store = memoryStore({ clock });
          return Promise.resolve({
            store: break_(store),
            dispose: async () => await store[Symbol.asyncDispose](),
          });
        },
      });
    }
  });
}

/** Breaks one port, outside and inside of transactions. */
function port<Name extends keyof StorePorts>(
  name: Name,
  change: (port: StorePorts[Name], ports: StorePorts) => Partial<StorePorts[Name]>,
): Break {
  const broken = <P extends StorePorts>(ports: P): P => ({
    ...ports,
    [name]: { ...ports[name], ...change(ports[name], ports) },
  });
  return (store) => ({
    ...broken(store),
    transaction: (work) => store.transaction((ports) => work(broken(ports))),
  });
}

/** Does nothing where the store says that the lease is lost. */
async function unfenced(work: Promise<unknown>): Promise<void> {
  await work.catch((error) => {
    if (!isMillstreamError(error, "LEASE_LOST")) throw error;
  });
}

let count = 0;

const MUTANTS: ReadonlyArray<readonly [what: string, foundBy: string, break_: Break]> = [
  [
    "does not roll back",
    "undoes what all ports wrote when the work fails",
    (store) => ({ ...store, transaction: (work) => work(store) }),
  ],
  [
    "wraps the error of a transaction",
    "throws the very error",
    (store) => ({
      ...store,
      transaction: (work) =>
        store.transaction(work).catch((cause) => {
          throw new Error("failed", { cause });
        }),
    }),
  ],
  [
    "drops the result of a transaction",
    "returns what the work returned",
    (store) => ({ ...store, transaction: (work) => store.transaction(work).then(() => undefined as never) }),
  ],
  [
    "goes on after it was closed",
    "a closed store says so",
    (store) => ({ ...store, [Symbol.asyncDispose]: () => Promise.resolve() }),
  ],
  [
    "records a message twice",
    "inbox: records a message once per group",
    port("inbox", ({ record }) => ({
      async record(group, id) {
        await record(group, id);
        return true;
      },
    })),
  ],
  [
    "has one inbox for all groups",
    "inbox: records a message once per group",
    port("inbox", ({ record }) => ({ record: (_, id) => record("group", id) })),
  ],
  [
    "forgets what is not old",
    "inbox: forgets what is old enough",
    port("inbox", ({ forget }) => ({ forget: () => forget(0) })),
  ],
  [
    "moves a checkpoint from wherever it stands",
    "checkpoints: refuse to move from where they do not stand",
    port(
      "checkpoints",
      ({ load, advance }) => ({ advance: async (name, _, to) => advance(name, await load(name), to) }),
    ),
  ],
  [
    "rounds positions to doubles",
    "checkpoints: begin at 0 and keep large positions exactly",
    port("checkpoints", ({ load }) => ({ load: async (name) => BigInt(Number(await load(name))) })),
  ],
  [
    "does not fence",
    "leases: a holder that was paused",
    port("leases", () => ({ assert: () => Promise.resolve() })),
  ],
  [
    "gives a lease to everybody",
    "leases: go to one of ten",
    port(
      "leases",
      ({ acquire }) => ({
        acquire: async (name, owner, ttlMs) => await acquire(name, owner, ttlMs) ?? { name, owner, epoch: 1 },
      }),
    ),
  ],
  [
    "never ends a lease",
    "leases: go on to the next when the time is up",
    port("leases", ({ acquire }) => ({ acquire: (name, owner) => acquire(name, owner, 86_400_000) })),
  ],
  [
    "ends leases early",
    "leases: go on to the next when the time is up",
    port("leases", ({ acquire }) => ({ acquire: (name, owner, ttlMs) => acquire(name, owner, ttlMs / 2) })),
  ],
  [
    "does not renew",
    "leases: hold as long as they are renewed",
    port("leases", () => ({ renew: () => Promise.resolve(true) })),
  ],
  [
    "does not release",
    "leases: are free at once when released",
    port("leases", () => ({ release: () => Promise.resolve() })),
  ],
  [
    "keeps the epoch",
    "leases: go on to the next when the time is up, with the next epoch",
    port("leases", ({ acquire }) => ({
      async acquire(...args) {
        const lease = await acquire(...args);
        return lease && { ...lease, epoch: 1 };
      },
    })),
  ],
  [
    "revokes nothing",
    "leases: that are revoked belong to nobody",
    port("leases", () => ({ revoke: () => Promise.resolve() })),
  ],
  [
    "keeps a removed checkpoint",
    "checkpoints: stand at 0 again",
    port("checkpoints", () => ({ remove: () => Promise.resolve() })),
  ],
  [
    "saves a projection over another change",
    "projections: are saved by one of ten",
    port("projections", ({ load, save }) => ({
      save: async (control) => save({ ...control, revision: (await load(control.name))?.revision ?? 0 }),
    })),
  ],
  [
    "mixes the parked events of two builds",
    "projections: parked events are listed in order",
    port("projections", ({ parked }) => ({
      parked: async (filter) =>
        (await Promise.all([1, 2].map((build) => parked({ ...filter, build })))).flat(),
    })),
  ],
  [
    "gives a snapshot to another fold",
    "snapshots: belong to a stream and a fold",
    port("snapshots", ({ load, save }) => ({
      load: (stream) => load(stream, "fold"),
      save: (snapshot) => save({ ...snapshot, fold: "fold" }),
    })),
  ],
  [
    "reads all lanes",
    "divides the streams into lanes",
    port(
      "events",
      ({ readAll }) => ({ readAll: (after, { lane: _, ...options }) => readAll(after, options) }),
    ),
  ],
  [
    "finds an event of any stream",
    "knows how far it can look, and whether a stream has an event",
    port("events", () => ({ has: () => Promise.resolve(true) })),
  ],
  [
    "lets anybody mark messages as sent",
    "outbox: marks nothing for a worker whose lease is lost",
    port("outbox", ({ markSent }, { leases }) => ({
      async markSent(positions) {
        await markSent(positions, (await leases.acquire("everybody", "anybody", 60_000))!);
      },
    })),
  ],
  [
    "forgets what was handed out",
    "outbox: keeps messages in their order until they are marked",
    port("outbox", ({ pending, markSent }, { leases }) => ({
      async pending(limit) {
        const entries = await pending(limit);
        await markSent(
          entries.map(({ position }) => position),
          (await leases.acquire("everybody", "anybody", 60_000))!,
        );
        return entries;
      },
    })),
  ],
  [
    "sends the newest first",
    "outbox: keeps messages in their order",
    port("outbox", ({ pending }) => ({ pending: async (limit) => (await pending(limit)).toReversed() })),
  ],
  [
    "does not tell how long messages wait",
    "outbox: tells how long the oldest message has been waiting",
    port("outbox", () => ({ oldestAgeMs: () => Promise.resolve(0) })),
  ],
  [
    "creates a saga twice",
    "sagas: are created once",
    port("sagas", ({ create }) => ({
      async create(instances) {
        await create(instances);
        return instances.map(() => true);
      },
    })),
  ],
  [
    "lets two workers claim one saga",
    "sagas: are claimed by one worker each",
    port("sagas", ({ claim, save }) => ({
      async claim(...args) {
        const claimed = await claim(...args);
        await save(claimed.map((one) => ({ claimed: one, instance: one.instance, release: true })));
        return claimed;
      },
    })),
  ],
  [
    "lets a worker save whose claim is lost",
    "sagas: a claim that ran out goes to another worker",
    port("sagas", ({ save }) => ({
      async save(saves) {
        await save(saves);
        return saves.map(() => true);
      },
    })),
  ],
  [
    "saves all or nothing",
    "sagas: those that are saved together are refused each by itself",
    port("sagas", ({ save }) => ({
      async save(saves) {
        const saved = await save(saves);
        return saves.map(() => saved.every(Boolean));
      },
    })),
  ],
  [
    "creates a saga without its holder",
    "sagas: one that is created for a holder is held from the start",
    port("sagas", ({ create }) => ({ create: (instances) => create(instances) })),
  ],
  [
    "takes what is held",
    "sagas: one can be taken by its id",
    port("sagas", ({ load, take }) => ({
      async take(id, owner, leaseMs) {
        const instance = await load(id);
        return await take(id, owner, leaseMs) ?? (instance && { instance, owner, epoch: 2 });
      },
    })),
  ],
  [
    "misses a signal that comes before the save",
    "sagas: a signal that comes between a look and the save",
    port("sagas", ({ save }) => ({ save: (saves) => save(saves.map(({ seen: _, ...rest }) => rest)) })),
  ],
  [
    "keeps only the last signal",
    "sagas: a signal makes its instance due",
    port("sagas", ({ signals }) => ({
      async signals(id) {
        const { seen, byName } = await signals(id);
        return { seen, byName: new Map([...byName].slice(-1)) };
      },
    })),
  ],
  [
    "finds no saga past its deadline",
    "sagas: those past their deadline are found",
    port("sagas", ({ list }) => ({
      list: (filter) => filter.overdueAt === undefined ? list(filter) : Promise.resolve([]),
    })),
  ],
  [
    "ends each claim when progress is saved",
    "sagas: saving keeps the claim or ends it, as asked",
    port(
      "sagas",
      ({ save }) => ({ save: (saves) => save(saves.map((one) => ({ ...one, release: true }))) }),
    ),
  ],
  [
    "claims sagas that are not asked for",
    "sagas: only those that are due, unfinished and asked for",
    port("sagas", ({ claim, list }) => ({
      async claim(_, owner, leaseMs, limit) {
        const all = (await list({ limit: 1_000 })).map(({ saga }) => saga);
        return await claim(all, owner, leaseMs, limit);
      },
    })),
  ],
  [
    "lists sagas of any status",
    "sagas: are listed by saga and status",
    port("sagas", ({ list }) => ({ list: ({ status: _, ...filter }) => list(filter) })),
  ],
  [
    "runs an operation twice at the same time",
    "idempotency: of ten who begin at the same time, one runs",
    port("idempotency", ({ begin }) => ({
      async begin(...args) {
        const begun = await begin(...args);
        return begun.state === "running" ? { state: "started", epoch: 1 } : begun;
      },
    })),
  ],
  [
    "does not compare requests",
    "idempotency: a key that belongs to another request says so",
    port("idempotency", ({ begin }) => ({ begin: (key, _, leaseMs) => begin(key, "f", leaseMs) })),
  ],
  [
    "lets a caller complete that was overtaken",
    "idempotency: a run whose lease ran out is taken over",
    port("idempotency", ({ complete }) => ({ complete: (...args) => unfenced(complete(...args)) })),
  ],
  [
    "keeps results for ever",
    "idempotency: a result is kept for its time",
    port(
      "idempotency",
      ({ complete }) => ({ complete: (key, epoch, result) => complete(key, epoch, result, 86_400_000) }),
    ),
  ],
  [
    "does not abandon",
    "idempotency: an abandoned run is free at once",
    port("idempotency", () => ({ abandon: () => Promise.resolve() })),
  ],
  [
    "ignores the expected version",
    "lets one of 20 concurrent appenders with the same expected version win",
    port(
      "events",
      ({ append }) => ({ append: (appends) => append(appends.map((one) => ({ ...one, expected: "any" }))) }),
    ),
  ],
  [
    "appends again what it has",
    "returns the earlier result when the same events are appended again",
    port("events", ({ append }) => ({
      append: (appends) =>
        append(
          appends.map((one) => ({
            ...one,
            events: one.events.map((event) => ({ ...event, id: `${event.id}~${++count}` })),
          })),
        ),
    })),
  ],
  [
    "appends to some streams of a call",
    "appends to several streams all or nothing",
    port("events", ({ append }) => ({
      async append(appends) {
        const results = [];
        for (const one of appends) results.push(...await append([one]));
        return results;
      },
    })),
  ],
  [
    "forgets topics",
    "an event with a topic is put in the outbox in the same transaction",
    port("events", ({ append }) => ({
      append: (appends) =>
        append(appends.map((one) => ({ ...one, events: one.events.map(({ topic: _, ...event }) => event) }))),
    })),
  ],
  [
    "puts an event in the outbox again when an append is repeated",
    "an event with a topic is put in the outbox in the same transaction, once",
    port("events", ({ append }, { outbox }) => ({
      async append(appends) {
        const plain = appends.map((one) => ({
          ...one,
          events: one.events.map(({ topic: _, ...event }) => event),
        }));
        const results = await append(plain);
        for (const { topic, ...event } of appends.flatMap(({ events }) => events)) {
          if (topic !== undefined) await outbox.add([{ ...event, topic }]);
        }
        return results;
      },
    })),
  ],
  [
    "reads backwards from the wrong end",
    "reads forwards, backwards, from a version",
    port("events", ({ readStream }) => ({
      readStream: async (stream, { backwards = false, ...options } = {}) => {
        const events = await readStream(stream, options);
        return backwards ? events.toReversed() : events;
      },
    })),
  ],
  [
    "skips an event of the store",
    "never skips and never inverts",
    port("events", ({ readAll }) => ({
      async readAll(after, options) {
        const page = await readAll(after, options);
        return page.events.length > 3 ? { ...page, events: page.events.slice(1) } : page;
      },
    })),
  ],
  [
    "inverts events of the store",
    "reads all streams in order of position",
    port("events", ({ readAll }) => ({
      async readAll(after, options) {
        const page = await readAll(after, options);
        return { ...page, events: page.events.toReversed() };
      },
    })),
  ],
  [
    "does not move on past events that do not match",
    "moves on past events that do not match",
    port("events", ({ readAll }) => ({
      async readAll(after, options) {
        const page = await readAll(after, options);
        return { ...page, position: page.events.at(-1)?.position ?? after };
      },
    })),
  ],
  [
    "ignores correlation ids",
    "finds events by type, correlation id and time",
    port(
      "events",
      ({ readAll }) => ({ readAll: (after, { correlationId: _, ...options }) => readAll(after, options) }),
    ),
  ],
  [
    "does not wait for events",
    "waits for the next event",
    port(
      "events",
      ({ readAll }) => ({ readAll: (after, options) => readAll(after, { ...options, waitMs: 0 }) }),
    ),
  ],
  [
    "changes the bytes of an event",
    "keeps bodies byte for byte",
    port("events", ({ append }) => ({
      append: (appends) =>
        append(appends.map((one) => ({
          ...one,
          events: one.events.map((event) => ({ ...event, body: JSON.stringify(JSON.parse(event.body)) })),
        }))),
    })),
  ],
];

test("the store in memory passes both suites in virtual time", async () => {
  const outcomes = await run((store) => store);
  assert.deepEqual(failed(outcomes), []);
  assert.ok(outcomes.length > 70);
  assert.ok(outcomes.filter(({ skip }) => skip).length <= 2);
});

for (const [what, foundBy, break_] of MUTANTS) {
  test(`the suites find a store that ${what}`, async () => {
    const names = failed(await run(break_));
    assert.ok(
      names.some((name) => name.includes(foundBy)),
      `not by "${foundBy}", only by: ${names.join("; ") || "nothing"}`,
    );
  });
}
