/**
 * The broker suite must fail when a broker breaks a promise: each of these brokers breaks one, and names the test that
 * is there to find it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { brokerMemory } from "../../src/memory/broker.ts";
import type { Broker, Delivery, Subscription } from "../../src/ports/broker.ts";
import type { DeadLetter, DeadLetters } from "../../src/ports/dead_letters.ts";
import { brokerConformance } from "../../src/testing/mod.ts";
import { failed, type Outcome, runInVirtualTime } from "./testing_in_virtual_time.ts";

/** Breaks a connection. `shared` is common to the connections of one test. */
type Break = (broker: Broker, shared: Shared) => Broker;

interface Shared {
  readonly owners: Map<string, { readonly subscription: Subscription; readonly delivery: Delivery }>;
  readonly keys: Map<string, string | undefined>;
  readonly letters: DeadLetter[];
  count: number;
}

function run(break_: Break): Promise<readonly Outcome[]> {
  return runInVirtualTime(({ test, clock }) =>
    brokerConformance({
      test,
      clock,
      create() {
        const memory = brokerMemory({ clock });
        const shared = { owners: new Map(), keys: new Map(), letters: [], count: 0 };
        return Promise.resolve({
          broker: break_(memory.connect(), shared),
          secondConnection: () => Promise.resolve(break_(memory.connect(), shared)),
          trim: (topic) => Promise.resolve(memory.trim(topic)),
          dispose: () => Promise.resolve(memory.close()),
        });
      },
    })
  );
}

/** Breaks each subscription of a connection. */
function subscriptions(
  change: (subscription: Subscription, broker: Broker, shared: Shared) => Partial<Subscription>,
): Break {
  return (broker, shared) => ({
    ...broker,
    async subscribe(...args) {
      const subscription = await broker.subscribe(...args);
      return { ...subscription, ...change(subscription, broker, shared) };
    },
  });
}

/** Breaks the dead letters of a connection. */
function deadLetters(
  change: (letters: DeadLetters, broker: Broker, shared: Shared) => Partial<DeadLetters>,
): Break {
  return (broker, shared) => ({
    ...broker,
    deadLetters: { ...broker.deadLetters, ...change(broker.deadLetters, broker, shared) },
  });
}

/** Changes each delivery before the consumer sees it. */
function deliveries(change: (delivery: Delivery, shared: Shared) => Delivery): Break {
  return subscriptions(({ pull }, _, shared) => ({
    pull: async (max, options) => (await pull(max, options)).map((delivery) => change(delivery, shared)),
  }));
}

function letters(change: (letter: DeadLetter) => DeadLetter): Break {
  return deadLetters(({ list, get }) => ({
    list: async (filter, page) => (await list(filter, page)).map(change),
    get: async (id) => {
      const letter = await get(id);
      return letter && change(letter);
    },
  }));
}

function resubscribe(
  change: (...args: Parameters<Broker["subscribe"]>) => Parameters<Broker["subscribe"]>,
): Break {
  return (broker) => ({ ...broker, subscribe: (...args) => broker.subscribe(...change(...args)) });
}

function reserialized<T extends { readonly body: string }>(message: T): T {
  return { ...message, body: JSON.stringify(JSON.parse(message.body)) };
}

const MUTANTS: ReadonlyArray<readonly [what: string, foundBy: string, break_: Break]> = [
  [
    "accepts the ack of a consumer that does not own the delivery",
    "refuses and reports whatever the former owner of a lost lease does",
    subscriptions(({ ack, pull, ...subscription }, _, { owners }) => ({
      async pull(max, options) {
        const some = await pull(max, options);
        for (const delivery of some) {
          owners.set(`${delivery.group} ${delivery.id}`, {
            subscription: { ...subscription, ack, pull },
            delivery,
          });
        }
        return some;
      },
      async ack(some) {
        for (const { group, id } of await ack(some)) {
          const owner = owners.get(`${group} ${id}`);
          if (owner) await owner.subscription.ack([owner.delivery]);
        }
        return [];
      },
    })),
  ],
  [
    "does not report lost leases",
    "settles what is still held in a call that also names lost deliveries",
    subscriptions(({ ack }) => ({
      async ack(some) {
        await ack(some);
        return [];
      },
    })),
  ],
  [
    "retries to all groups",
    "retries to the failing group only",
    subscriptions(({ retry, topic }, broker) => ({
      async retry(delivery, delayMs, failure) {
        const { id, type, body } = delivery;
        if (!id.endsWith("'")) await broker.publish(topic, [{ id: `${id}'`, type, body }]);
        return await retry(delivery, delayMs, failure);
      },
    })),
  ],
  [
    "ignores the delay of a retry",
    "not before the delay",
    subscriptions(({ retry }) => ({ retry: (delivery, _, failure) => retry(delivery, 0, failure) })),
  ],
  [
    "does not count attempts",
    "brings every message through when each fails three times",
    deliveries((delivery) => ({ ...delivery, attempt: 1 })),
  ],
  [
    "keeps no key order",
    "handles each key in order across consumers",
    (broker, shared) => {
      const keyless: Broker = {
        ...broker,
        publish(topic, messages, options) {
          for (const { id, key } of messages) shared.keys.set(id, key);
          return broker.publish(topic, messages.map(({ id, type, body }) => ({ id, type, body })), options);
        },
      };
      const restore = (delivery: Delivery): Delivery => {
        const key = shared.keys.get(delivery.id);
        return key === undefined ? delivery : { ...delivery, key };
      };
      return deliveries(restore)(keyless, shared);
    },
  ],
  [
    "lets the followers of a failed message go on before it",
    "a key whose message waits for its retry holds back its own followers only",
    subscriptions(({ retry, ack }, broker, shared) => ({
      async retry(delivery, delayMs, failure) {
        const { id, type, key, body, topic } = delivery;
        if (key === undefined || delayMs === 0) return await retry(delivery, delayMs, failure);
        await ack([delivery]);
        await broker.publish(topic, [{ id: `${id}~${++shared.count}`, type, key, body }], { delayMs });
        return true;
      },
    })),
  ],
  [
    "does not recognise an id that is published again",
    "adds nothing when an id is published again",
    (broker, shared) =>
      deliveries((delivery) => ({ ...delivery, id: delivery.id.split("~")[0]! }))({
        ...broker,
        publish: (topic, messages, options) =>
          broker.publish(
            topic,
            messages.map((message) => ({ ...message, id: `${message.id}~${++shared.count}` })),
            options,
          ),
      }, shared),
  ],
  [
    "changes the bytes of a dead letter",
    "keeps a dead letter with its original bytes",
    letters(reserialized),
  ],
  [
    "changes the bytes of a message",
    "carries bodies byte for byte",
    (broker) => ({
      ...broker,
      publish: (topic, messages, options) => broker.publish(topic, messages.map(reserialized), options),
    }),
  ],
  [
    "keeps a dead letter after it was redriven",
    "sends a dead letter back to the group that gave it up, as a first attempt, once",
    deadLetters(({ list, get, redrive }, _, { letters: kept }) => ({
      list: async (filter, page) => [...await list(filter, page), ...kept],
      get: async (id) => await get(id) ?? kept.find(({ deadLetterId }) => deadLetterId === id),
      async redrive(id) {
        const letter = await get(id);
        if (letter) kept.push(letter);
        return await redrive(id) || kept.some(({ deadLetterId }) => deadLetterId === id);
      },
    })),
  ],
  [
    "redrives to all groups",
    "sends a dead letter back to the group that gave it up",
    deadLetters(({ get, remove }, broker, shared) => ({
      async redrive(deadLetterId) {
        const letter = await get(deadLetterId);
        if (!letter || !await remove(deadLetterId)) return false;
        const { id, type, key, body } = letter;
        await broker.publish(letter.topic, [{
          id: `${id}~${++shared.count}`,
          type,
          body,
          ...key === undefined ? {} : { key },
        }]);
        return true;
      },
    })),
  ],
  [
    "loses a dead letter when it is redriven twice at the same time",
    "redrives once when five try at the same time",
    deadLetters(({ get, redrive }) => ({
      async redrive(id) {
        const found = await get(id) !== undefined;
        await redrive(id);
        return found;
      },
    })),
  ],
  [
    "drops what is given up",
    "keeps a dead letter with its original bytes",
    subscriptions(({ ack }) => ({ deadLetter: async (delivery) => (await ack([delivery])).length === 0 })),
  ],
  [
    "takes the last failure for the first",
    "keeps a dead letter with its original bytes",
    letters((letter) => ({ ...letter, firstFailedAt: letter.failure.at })),
  ],
  [
    "lists dead letters of all groups whatever the filter",
    "lists by topic, group, type, error and time",
    deadLetters(({ list }) => ({ list: ({ group: _, ...filter }, page) => list(filter, page) })),
  ],
  [
    "counts an attempt for a release",
    "gives a released message back at once",
    subscriptions(({ retry }) => ({
      async release(some) {
        for (const delivery of some) await retry(delivery, 0, { error: "", message: "", at: 0 });
      },
    })),
  ],
  [
    "never hands on what a dead consumer held",
    "hands a message to another consumer when the lease of the first runs out",
    resubscribe((topic, group, options) => [topic, group, { ...options, leaseMs: 86_400_000 }]),
  ],
  [
    "hands on what a consumer still holds",
    "when the lease of the first runs out, not before",
    resubscribe((
      topic,
      group,
      options,
    ) => [topic, group, { ...options, leaseMs: (options?.leaseMs ?? 30_000) / 3 }]),
  ],
  [
    "does not extend leases",
    "keeps a lease that is extended in time",
    subscriptions(() => ({ extend: () => Promise.resolve([]) })),
  ],
  [
    "acknowledges what it hands out",
    "hands unsettled deliveries back when a consumer leaves",
    subscriptions(({ pull, ack }) => ({
      async pull(max, options) {
        const some = await pull(max, options);
        await ack(some);
        return some;
      },
    })),
  ],
  [
    "acknowledges all that is out, not what it is given",
    "settles only the deliveries it is given",
    subscriptions(({ pull, ack }) => {
      const out: Delivery[] = [];
      return {
        async pull(max, options) {
          const some = await pull(max, options);
          out.push(...some);
          return some;
        },
        ack: () => ack(out),
      };
    }),
  ],
  [
    "begins new groups at the end",
    "begins a new group with what was published before it",
    resubscribe((topic, group, options) => [topic, group, { ...options, from: "now" }]),
  ],
  [
    "begins new groups at the start, whatever is asked",
    "begins a new group with what is published from now on",
    resubscribe((topic, group, options) => [topic, group, { ...options, from: "start" }]),
  ],
  [
    "takes all groups for one",
    "hands every message to every group",
    resubscribe((topic, _, options) => [topic, "group", options ?? {}]),
  ],
  [
    "takes all topics for one",
    "keeps 5 topics apart",
    (broker) => ({
      ...broker,
      publish: (_, messages, options) => broker.publish("topic", messages, options),
      subscribe: (_, group, options) => broker.subscribe("topic", group, options),
    }),
  ],
  [
    "returns more than max",
    "never returns more than max",
    subscriptions(({ pull }) => ({ pull: (max, options) => pull(max + 1, options) })),
  ],
  [
    "hardly waits for the first delivery",
    "ends a waiting pull when something is published",
    subscriptions(({ pull }) => ({
      pull: (max, options) => pull(max, { ...options, waitMs: Math.min(1, options.waitMs) }),
    })),
  ],
  [
    "ignores the signal of a pull",
    "stops a pull by its signal",
    subscriptions(({ pull }) => ({ pull: (max, { waitMs }) => pull(max, { waitMs }) })),
  ],
  [
    "ignores the delay of a publish",
    "hands a delayed message out when its time has come, not before",
    (broker) => ({ ...broker, publish: (topic, messages) => broker.publish(topic, messages) }),
  ],
  [
    "turns the order of a call around",
    "keeps the order of one key within a call",
    (broker) => ({
      ...broker,
      publish: (topic, messages, options) => broker.publish(topic, [...messages].reverse(), options),
    }),
  ],
  [
    "confirms before it has published, and forgets on closing",
    "a connection that is closed while it publishes loses nothing that it confirmed",
    (broker) => {
      const pending: Array<() => Promise<void>> = [];
      return {
        ...broker,
        publish(topic, messages, options) {
          pending.push(() => broker.publish(topic, messages, options));
          void Promise.resolve().then(() => pending.shift()?.().catch(() => {}));
          return Promise.resolve();
        },
        async [Symbol.asyncDispose]() {
          pending.length = 0;
          await broker[Symbol.asyncDispose]();
        },
      };
    },
  ],
  [
    "accepts any name",
    "refuses topic and group names that are not names",
    (broker) => {
      const clean = (name: string): string =>
        name.replace(/[^A-Za-z0-9._-]/g, "").slice(0, 200).replace(/^[^A-Za-z0-9]*/, "") || "x";
      return {
        ...broker,
        publish: (topic, messages, options) => broker.publish(clean(topic), messages, options),
        subscribe: (topic, group, options) => broker.subscribe(clean(topic), clean(group), options),
      };
    },
  ],
  [
    "counts a start for all that it hands out",
    "counts the handlers that began, through lost leases, and not the neighbours",
    subscriptions(({ pull, begin }) => ({
      async pull(max, options) {
        const some = await pull(max, options);
        for (const delivery of some) await begin(delivery);
        return some;
      },
    })),
  ],
  [
    "forgets starts when the lease runs out",
    "counts the handlers that began, through lost leases",
    subscriptions(({ begin }) => ({ begin: async (delivery) => await begin(delivery) && 1 })),
  ],
  [
    "lets anybody start",
    "a start by the former owner of a lost lease is refused",
    subscriptions(({ begin }) => ({ begin: async (delivery) => await begin(delivery) ?? 1 })),
  ],
  [
    "marks nothing as redelivered",
    "marks as redelivered what was left to its lease",
    deliveries((delivery) => ({ ...delivery, redelivered: false })),
  ],
  [
    "marks a retry as redelivered",
    "marks as redelivered what was left to its lease, and not what was retried",
    deliveries((delivery) => ({ ...delivery, redelivered: delivery.redelivered || delivery.attempt > 1 })),
  ],
  [
    "lists only the groups of this connection",
    "lists groups that another connection has joined",
    (broker, { count }) => {
      const joined = new Set<string>([String(count)]);
      return {
        ...broker,
        subscribe(topic, group, options) {
          joined.add(`${topic} ${group}`);
          return broker.subscribe(topic, group, options);
        },
        groups: async (filter) =>
          (await broker.groups(filter)).filter(({ topic, group }) => joined.has(`${topic} ${group}`)),
      };
    },
  ],
  [
    "tells no ages",
    "says for how long the oldest unsettled message has waited",
    (broker) => ({
      ...broker,
      groups: async (filter) => (await broker.groups(filter)).map((status) => ({ ...status, oldestMs: 0 })),
    }),
  ],
  [
    "takes a moment for the start",
    "begins a new group with what came in at or after a moment",
    resubscribe((topic, group, { from, ...options } = {}) => [
      topic,
      group,
      typeof from === "object" && from !== null && from.since > 0
        ? options
        : { ...options, ...(from ? { from } : {}) },
    ]),
  ],
  [
    "says that it has cancelled, and has not",
    "calls a delayed message off",
    (broker) => ({
      ...broker,
      scheduled: {
        ...broker.scheduled!,
        async cancel(topic, id) {
          const there = await broker.scheduled!.reschedule(topic, id, 400);
          return there;
        },
      },
    }),
  ],
  [
    "moves a message and keeps it at its old time",
    "gives a delayed message an earlier time, and another a later one",
    (broker) => ({
      ...broker,
      scheduled: { ...broker.scheduled!, reschedule: () => Promise.resolve(true) },
    }),
  ],
  [
    "counts all dead letters whatever the filter",
    "lists by topic, group, type, error and time",
    deadLetters(({ count }) => ({ count: ({ group: _, ...filter }) => count(filter) })),
  ],
  [
    "counts nothing in flight",
    "counts what is ready, in flight, delayed and dead",
    subscriptions(({ lag }) => ({ lag: async () => ({ ...await lag(), inFlight: 0 }) })),
  ],
  [
    "goes on after it was left",
    "leaving while a pull waits ends the pull",
    subscriptions(() => ({ [Symbol.asyncDispose]: () => Promise.resolve() })),
  ],
  [
    "goes on after it was closed",
    "a closed broker says so",
    (broker) => ({ ...broker, [Symbol.asyncDispose]: () => Promise.resolve() }),
  ],
  [
    "hides gaps of the log",
    "the log reports a gap",
    (broker) => ({
      ...broker,
      log: { read: async (...args) => ({ ...await broker.log!.read(...args), gap: false }) },
    }),
  ],
  [
    "takes any position for the start of the log",
    "the log refuses positions that are not its own",
    (broker) => ({
      ...broker,
      log: {
        read: (topic, after, options) =>
          broker.log!.read(topic, after, options).catch((error) => {
            if (isMillstreamError(error, "INVALID_ARGUMENT")) {
              return broker.log!.read(topic, "start", options);
            }
            throw error;
          }),
      },
    }),
  ],
  [
    "lets groups eat the log",
    "groups take nothing from the log",
    (broker, shared) => ({
      ...subscriptions(({ ack, topic }) => ({
        async ack(some) {
          for (const { id } of some) shared.keys.set(`${topic} ${id}`, undefined);
          return await ack(some);
        },
      }))(broker, shared),
      log: {
        async read(topic, after, options) {
          const page = await broker.log!.read(topic, after, options);
          return { ...page, entries: page.entries.filter(({ id }) => !shared.keys.has(`${topic} ${id}`)) };
        },
      },
    }),
  ],
];

test("the broker in memory passes the whole suite in virtual time", async () => {
  const outcomes = await run((broker) => broker);
  assert.deepEqual(failed(outcomes), []);
  assert.ok(outcomes.length > 70);
  assert.ok(outcomes.filter(({ skip }) => skip).length <= 2);
});

for (const [what, foundBy, break_] of MUTANTS) {
  test(`the suite finds a broker that ${what}`, async () => {
    const names = failed(await run(break_));
    assert.ok(
      names.some((name) => name.includes(foundBy)),
      `not by "${foundBy}", only by: ${names.join("; ") || "nothing"}`,
    );
  });
}
