/**
 * What each test of the broker suite works with: a fresh broker, a topic of its own, and helpers that wait.
 *
 * @module
 */
import { type Clock, sleep } from "../../../core/clock.ts";
import { disposer } from "../../../core/dispose.ts";
import type { EncodedMessage } from "../../../core/message.ts";
import type {
  Broker,
  BrokerFeatures,
  Delivery,
  SubscribeOptions,
  Subscription,
} from "../../../ports/broker.ts";
import type { Failure } from "../../../ports/dead_letters.ts";
import { deepEqual, fail, ok } from "../../assert.ts";
import { register } from "../../runner.ts";
import type { BrokerConformanceOptions, BrokerUnderTest } from "../broker.ts";
import { idsOf, testMessage, type TestMessageOptions, uniqueNames } from "../messages.ts";

/** What a test needs besides the port itself: a feature, the log, or a hook of {@linkcode BrokerUnderTest}. */
export type Need = keyof BrokerFeatures["reasons"] | "log" | "restart" | "trim" | "secondConnection";

/** The features that are true or false. */
export const FEATURES: ReadonlyArray<keyof BrokerFeatures["reasons"]> = [
  "persistent",
  "replay",
  "keyOrder",
  "delay",
  "deduplicates",
  "fencedAck",
  "replaySince",
  "countsStarts",
  "listsGroups",
  "reschedules",
];

/** Registers tests, skipping those whose needs are not met. */
export interface BrokerSuite {
  readonly features: BrokerFeatures;
  test(name: string, run: (world: BrokerWorld) => Promise<void>, needs?: readonly Need[]): void;
}

/** The surroundings of one test. */
export interface BrokerWorld {
  readonly broker: Broker;
  readonly under: BrokerUnderTest;
  readonly clock: Clock;
  /** A lease that the test can let run out. */
  readonly leaseMs: number;
  /** A delay that a test can wait for, long enough for everything else to come before. */
  readonly delayMs: number;
  /** How long to wait for what must come. */
  readonly patienceMs: number;
  /** The topic of this test. */
  readonly topic: string;
  /** A name that nobody else uses. */
  unique(prefix: string): string;
  /** A message with an id of its own. */
  message(data?: unknown, options?: TestMessageOptions): EncodedMessage;
  messages(count: number, options?: TestMessageOptions): readonly EncodedMessage[];
  /** Joins a group of the test's topic; left when the test ends. */
  subscribe(group: string, options?: JoinOptions): Promise<Subscription>;
  /** Another connection, or the same broker where there is no hook for it. Closed when the test ends. */
  connect(): Promise<Broker>;
  /** Takes deliveries until there are `count`, and acknowledges them. Fails if they do not come. */
  collect(subscription: Subscription, count: number): Promise<readonly Delivery[]>;
  /** Takes exactly `count` deliveries without settling them. Fails if they do not come. */
  take(subscription: Subscription, count: number): Promise<readonly Delivery[]>;
  /** Takes one delivery in one pull, without settling it. Fails if it does not come. */
  one(subscription: Subscription): Promise<Delivery>;
  /** Fails if anything is delivered within `ms` milliseconds. */
  nothing(subscription: Subscription, ms?: number): Promise<void>;
  sleep(ms: number): Promise<void>;
}

/** Where and how {@linkcode BrokerWorld.subscribe} joins. */
export interface JoinOptions extends SubscribeOptions {
  readonly broker?: Broker;
  readonly topic?: string;
}

type Settings =
  & BrokerConformanceOptions
  & Required<Pick<BrokerConformanceOptions, "clock" | "leaseMs" | "delayMs" | "patienceMs">>;

/** Asks the implementation what it can do and prepares the registration of tests. */
export async function brokerSuite(settings: Settings): Promise<BrokerSuite> {
  const probe = await settings.create();
  const { features } = probe.broker;
  const missing = missingNeeds(probe);
  await probe.dispose();
  return {
    features,
    test(name, run, needs = []) {
      const skip = needs.map((need) => missing.get(need)).find((reason) => reason !== undefined);
      const timeout = settings.patienceMs * 4 + 20_000;
      register(
        settings.test,
        `${settings.name ?? features.name}: ${name}`,
        { skip, timeout },
        () => runInWorld(settings, run),
      );
    },
  };
}

function missingNeeds(
  { broker, restart, trim, secondConnection }: BrokerUnderTest,
): ReadonlyMap<Need, string> {
  const missing = new Map<Need, string>();
  for (const feature of FEATURES) {
    if (broker.features[feature]) continue;
    missing.set(
      feature,
      broker.features.reasons[feature] ?? `features.${feature} is false, and no reason is given`,
    );
  }
  if (!broker.log) missing.set("log", "this broker keeps no log");
  if (!restart) missing.set("restart", "no restart() was given to the suite");
  if (!trim) missing.set("trim", "no trim() was given to the suite");
  if (!secondConnection) missing.set("secondConnection", "no secondConnection() was given to the suite");
  return missing;
}

async function runInWorld(settings: Settings, run: (world: BrokerWorld) => Promise<void>): Promise<void> {
  const under = await settings.create();
  const closing = disposer();
  closing.defer(() => under.dispose());
  let failed = true;
  try {
    await run(
      brokerWorld(settings, under, (thing) => closing.defer(async () => await thing[Symbol.asyncDispose]())),
    );
    failed = false;
  } finally {
    // A failure while closing must not hide why the test failed.
    await closing.dispose().catch((error) => {
      if (!failed) throw error;
    });
  }
}

function brokerWorld(
  settings: Settings,
  under: BrokerUnderTest,
  closeLater: (thing: AsyncDisposable) => void,
): BrokerWorld {
  const { clock, leaseMs, delayMs, patienceMs } = settings;
  const unique = uniqueNames();
  const topic = unique("topic");
  const message = (data: unknown = null, options?: TestMessageOptions) =>
    testMessage(unique("m"), data, options);

  async function gather(
    subscription: Subscription,
    count: number,
    settle: boolean,
  ): Promise<readonly Delivery[]> {
    const all: Delivery[] = [];
    const end = clock.monotonic() + patienceMs;
    while (all.length < count) {
      const some = await subscription.pull(settle ? 100 : count - all.length, { waitMs: 500 });
      all.push(...some);
      if (settle && some.length > 0) {
        deepEqual(await subscription.ack(some), [], "deliveries whose lease was lost");
      }
      if (some.length === 0 && clock.monotonic() > end) {
        fail(
          `expected ${count} deliveries, got ${all.length} in ${patienceMs} ms: ${
            idsOf(all).slice(0, 20).join(", ")
          }`,
        );
      }
    }
    ok(all.length === count, `expected ${count} deliveries, got ${all.length}`);
    return all;
  }

  return {
    broker: under.broker,
    under,
    clock,
    leaseMs,
    delayMs,
    patienceMs,
    topic,
    unique,
    message,
    messages: (count, options) => Array.from({ length: count }, (_, n) => message({ n }, options)),
    async subscribe(group, { broker = under.broker, topic: other = topic, ...options } = {}) {
      const subscription = await broker.subscribe(other, group, options);
      closeLater(subscription);
      return subscription;
    },
    async connect() {
      if (!under.secondConnection) return under.broker;
      const broker = await under.secondConnection();
      closeLater(broker);
      return broker;
    },
    collect: (subscription, count) => gather(subscription, count, true),
    take: (subscription, count) => gather(subscription, count, false),
    async one(subscription) {
      const [delivery, ...more] = await subscription.pull(1, { waitMs: patienceMs });
      ok(delivery, `expected a delivery within ${patienceMs} ms, got none`);
      ok(more.length === 0, "expected one delivery, got more than max");
      return delivery;
    },
    async nothing(subscription, ms = 150) {
      const some = await subscription.pull(10, { waitMs: ms });
      deepEqual(idsOf(some), [], `deliveries within ${ms} ms`);
    },
    sleep: (ms) => sleep(clock, ms),
  };
}

/** A failure to settle deliveries with. */
export function failure(error = "Timeout", at = 1_767_225_600_000): Failure {
  return {
    error,
    message: `it failed: "${error}" \u2713`,
    stack: `${error}: it failed\n    at somewhere:1:1`,
    at,
  };
}
