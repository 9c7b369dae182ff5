/**
 * The conformance suite of the broker port: everything its documentation promises, as tests.
 *
 * The list starts from Watermill's universal suite (github.com/ThreeDotsLabs/watermill, `pubsub/tests`) and adds what
 * that leaves out: leases and fencing, delays, dead letters, key order under redelivery, fidelity and disposal.
 *
 * @module
 */
import { type Clock, systemClock } from "../../core/clock.ts";
import type { Broker } from "../../ports/broker.ts";
import type { TestRunner } from "../runner.ts";
import { deadLetterTests } from "./broker/dead_letters.ts";
import { deliveryTests } from "./broker/delivery.ts";
import { groupTests } from "./broker/groups.ts";
import { lifecycleTests } from "./broker/lifecycle.ts";
import { logTests } from "./broker/log.ts";
import { orderTests } from "./broker/order.ts";
import { publishTests } from "./broker/publish.ts";
import { scheduledTests } from "./broker/scheduled.ts";
import { settlementTests } from "./broker/settlement.ts";
import { startTests } from "./broker/starts.ts";
import { brokerSuite } from "./broker/world.ts";

/** A broker for one test. */
export interface BrokerUnderTest {
  readonly broker: Broker;
  /**
   * Another connection to the same server, as another process would have; the suite closes it. Without it, all
   * consumers of a test share {@linkcode BrokerUnderTest.broker}.
   */
  secondConnection?(): Promise<Broker>;
  /**
   * Stops the server the hard way and starts it again with the same data. Returns the broker to go on with: the same
   * one where it reconnects. Only for a server of the test's own.
   */
  restart?(): Promise<Broker>;
  /** Makes the server drop all messages that a topic keeps for later readers, as its retention would. */
  trim?(topic: string): Promise<void>;
  /** Closes the broker and removes what the test left behind. Called once, at the end, also if the test failed. */
  dispose(): Promise<void>;
}

/** Options of {@linkcode brokerConformance}. */
export interface BrokerConformanceOptions {
  /** The runner's way to register a test: `test` of `node:test`. */
  readonly test: TestRunner;
  /** Put before the name of each test. @default the broker's `features.name` */
  readonly name?: string;
  /** Makes the broker for one test. Topics have names of their own, so tests may share a server. */
  readonly create: () => Promise<BrokerUnderTest>;
  /** Length of the leases that tests let run out, in milliseconds. @default 300 */
  readonly leaseMs?: number;
  /** A delay long enough for a group to begin and to hand out what is not delayed, in milliseconds. @default 400 */
  readonly delayMs?: number;
  /** How long tests wait for what must come, in milliseconds. @default 10_000 */
  readonly patienceMs?: number;
  /** Time for the suite itself. @default the system's clock */
  readonly clock?: Clock;
}

/**
 * Registers the tests of the broker port for one implementation. `features` decides which apply; each one that does
 * not is registered as skipped, with the reason that the implementation gives.
 *
 * Await it at the top level of the test file: it makes one broker first, to ask for its features.
 *
 * @example
 * ```ts ignore
 * import { test } from "node:test";
 * import { brokerConformance } from "millstream/testing";
 *
 * await brokerConformance({
 *   test,
 *   async create() {
 *     const broker = myBroker({ url });
 *     return { broker, dispose: () => broker[Symbol.asyncDispose]() };
 *   },
 * });
 * ```
 */
export async function brokerConformance(options: BrokerConformanceOptions): Promise<void> {
  const { clock = systemClock, leaseMs = 300, delayMs = 400, patienceMs = 10_000 } = options;
  const suite = await brokerSuite({ ...options, clock, leaseMs, delayMs, patienceMs });
  publishTests(suite);
  deliveryTests(suite);
  settlementTests(suite);
  startTests(suite);
  scheduledTests(suite);
  groupTests(suite);
  orderTests(suite);
  deadLetterTests(suite);
  logTests(suite);
  lifecycleTests(suite);
}
