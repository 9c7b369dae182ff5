/**
 * What each test of the event store suite and of the store suite works with.
 *
 * @module
 */
import { type Clock, sleep, systemClock } from "../../core/clock.ts";
import { disposer } from "../../core/dispose.ts";
import type { EventToAppend } from "../../ports/event_store.ts";
import type { OutboxEntry } from "../../ports/outbox.ts";
import type { Store } from "../../ports/store.ts";
import { eventually } from "../assert.ts";
import { register, type TestRunner } from "../runner.ts";
import { testMessage, type TestMessageOptions, uniqueNames } from "./messages.ts";

/** A store for one test. */
export interface StoreUnderTest {
  readonly store: Store;
  /** The same store as another process would open it; the suite closes it. Without it, tests share one. */
  secondConnection?(): Promise<Store>;
  /** Stops the server or closes the store, and opens it again with the same data. Only for stores that outlive their process. */
  restart?(): Promise<Store>;
  /** Closes the store and removes what the test left behind. Called once, at the end, also if the test failed. */
  dispose(): Promise<void>;
}

/** Options of {@linkcode eventStoreConformance} and {@linkcode storeConformance}. */
export interface StoreConformanceOptions {
  /** The runner's way to register a test: `test` of `node:test`. */
  readonly test: TestRunner;
  /** Put before the name of each test. @default the store's name */
  readonly name?: string;
  /**
   * Makes the store for one test. All names are new, so the tests of one file may follow each other on one store
   * (schema, file); nobody else may write to it meanwhile.
   */
  readonly create: () => Promise<StoreUnderTest>;
  /** Length of the leases that tests let run out, in milliseconds. @default 300 */
  readonly leaseMs?: number;
  /** How long tests wait for what must come, in milliseconds. @default 10_000 */
  readonly patienceMs?: number;
  /** Time for the suite itself. @default the system's clock */
  readonly clock?: Clock;
}

/** Registers tests, skipping those that need a hook which is not there. */
export interface StoreSuite {
  test(
    name: string,
    run: (world: StoreWorld) => Promise<void>,
    needs?: readonly ("restart" | "secondConnection")[],
  ): void;
}

/** The surroundings of one test. */
export interface StoreWorld {
  readonly store: Store;
  readonly under: StoreUnderTest;
  readonly clock: Clock;
  readonly leaseMs: number;
  readonly patienceMs: number;
  /** Topic of the messages that this test puts in the outbox; others of the test begin with it. */
  readonly topic: string;
  /** A name that nobody else uses. */
  unique(prefix: string): string;
  /** An event with an id of its own. */
  event(data?: unknown, options?: TestMessageOptions): EventToAppend;
  events(count: number, options?: TestMessageOptions): readonly EventToAppend[];
  /** Another connection, or the same store where there is no hook for it. Closed when the test ends. */
  connect(): Promise<Store>;
  /** The unsent messages of this test, waiting until there are at least `count`: some stores show them with a delay. */
  pending(count: number, store?: Store): Promise<readonly OutboxEntry[]>;
  /** A position with nothing after it but what this test appends. */
  end(): Promise<bigint>;
  /** Waits until reads of the whole store have come to a position. */
  caughtUp(position: bigint): Promise<void>;
  sleep(ms: number): Promise<void>;
}

/** Asks the implementation what it can do and prepares the registration of tests. */
export async function storeSuite(options: StoreConformanceOptions): Promise<StoreSuite> {
  const probe = await options.create();
  const { store: { name }, restart, secondConnection } = probe;
  await probe.dispose();
  const hooks = { restart, secondConnection };
  const { patienceMs = 10_000 } = options;
  return {
    test(title, run, needs = []) {
      const missing = needs.find((need) => !hooks[need]);
      const skip = missing && `no ${missing}() was given to the suite`;
      const timeout = patienceMs * 4 + 20_000;
      register(
        options.test,
        `${options.name ?? name}: ${title}`,
        { skip, timeout },
        () => runInWorld(options, run),
      );
    },
  };
}

async function runInWorld(
  options: StoreConformanceOptions,
  run: (world: StoreWorld) => Promise<void>,
): Promise<void> {
  const under = await options.create();
  const closing = disposer();
  closing.defer(() => under.dispose());
  let failed = true;
  try {
    await under.store.start();
    await run(
      storeWorld(options, under, (store) => closing.defer(async () => await store[Symbol.asyncDispose]())),
    );
    failed = false;
  } finally {
    // A failure while closing must not hide why the test failed.
    await closing.dispose().catch((error) => {
      if (!failed) throw error;
    });
  }
}

function storeWorld(
  { clock = systemClock, leaseMs = 300, patienceMs = 10_000 }: StoreConformanceOptions,
  under: StoreUnderTest,
  closeLater: (store: Store) => void,
): StoreWorld {
  const unique = uniqueNames();
  const caughtUp = async (position: bigint): Promise<void> => {
    await eventually(
      clock,
      patienceMs,
      "the last event",
      async () => (await under.store.events.readAll(position - 1n, { limit: 1 })).events.length > 0,
    );
  };
  const topic = unique("topic");
  const event = (data: unknown = null, options?: TestMessageOptions) =>
    testMessage(unique("e"), data, options);
  return {
    store: under.store,
    under,
    clock,
    leaseMs,
    patienceMs,
    topic,
    unique,
    event,
    events: (count, options) => Array.from({ length: count }, (_, n) => event({ n }, options)),
    async connect() {
      if (!under.secondConnection) return under.store;
      const store = await under.secondConnection();
      closeLater(store);
      await store.start();
      return store;
    },
    pending: (count, store = under.store) =>
      eventually(clock, patienceMs, `${count} messages in the outbox`, async () => {
        const entries = (await store.outbox.pending(10_000)).filter((entry) => entry.topic.startsWith(topic));
        return entries.length >= count && entries;
      }),
    async end() {
      const [last] = await under.store.events.append([{
        stream: unique("s"),
        expected: 0,
        events: [event()],
      }]);
      await caughtUp(last!.position);
      return last!.position;
    },
    caughtUp,
    sleep: (ms) => sleep(clock, ms),
  };
}
