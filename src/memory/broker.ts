/**
 * A broker in this process's memory: the embedded default, and the one for tests.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { aborted, type Clock, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { Broker, BrokerFeatures, GroupStatus, Scheduled, Subscription } from "../ports/broker.ts";
import type { DeadLetters } from "../ports/dead_letters.ts";
import { checkStartFrom } from "../ports/start_from.ts";
import { bell } from "./bell.ts";
import { deadLetterOffice } from "./dead_letters.ts";
import type { Group } from "./group.ts";
import { createSubscription } from "./subscription.ts";
import { createTopic, type Topic } from "./topic.ts";
import { topicLog } from "./topic_log.ts";

/** Options of {@linkcode memoryBroker}. */
export interface MemoryBrokerOptions {
  /** Time for delays, leases and waiting. @default the system's clock */
  readonly clock?: Clock;
  /** Messages per topic kept for groups and readers that come later. @default 10_000 */
  readonly retention?: number;
  /**
   * Unsettled messages that one group may have. A publish that would exceed it is refused with `OVERLOADED`: memory is
   * bounded, and nothing that was accepted is dropped. @default 1_000_000
   */
  readonly capacity?: number;
}

/**
 * Creates a broker in memory with the guarantees of the port, as long as the process lives.
 *
 * - Delivery: at least once; a delivery whose lease runs out goes to another consumer, and its late settlement is
 *   refused.
 * - Order: that of publishing; per key also under retries.
 * - Deduplication: by the last 10,000 ids of a topic.
 * - What groups have not yet handled is kept up to `capacity`; beyond that each topic keeps the last `retention`
 *   messages for groups and readers that come later, and readers are told about a gap.
 */
export function memoryBroker(options: MemoryBrokerOptions = {}): Broker {
  const memory = brokerMemory(options);
  const broker = memory.connect();
  // deno-lint-ignore require-await -- everything happens at once in memory
  return { ...broker, [Symbol.asyncDispose]: async () => memory.close() };
}

/** What brokers of one process share: the "server" to which each {@linkcode Broker} is a connection. */
export interface BrokerMemory {
  connect(): Broker;
  /** Drops what a topic keeps for later groups and readers. */
  trim(topic: string): void;
  /** Closes all connections and stops all timers. */
  close(): void;
}

/** An empty {@linkcode BrokerMemory}. */
export function brokerMemory(options: MemoryBrokerOptions = {}): BrokerMemory {
  const { clock = systemClock, retention = 10_000, capacity = 1_000_000 } = options;
  checkRange("retention", retention, 0, 100_000_000, true);
  checkRange("capacity", capacity, 1, 100_000_000, true);
  const topics = new Map<string, Topic>();
  const office = deadLetterOffice(clock);
  const grown = bell(clock);
  const log = topicLog(topics, grown, clock.now().toString(36).replace(".", ""));
  const connections = new Set<() => void>();
  let subscriptions = 0;

  function topicNamed(name: string): Topic {
    const known = topics.get(checkName("topic", name));
    if (known) return known;
    const topic = createTopic(name, { retention, capacity }, clock, () => grown.ring(name));
    topics.set(name, topic);
    return topic;
  }

  function connect(): Broker {
    const open = new Set<Subscription>();
    let closed = false;
    connections.add(close);

    function close(): void {
      closed = true;
      connections.delete(close);
      for (const subscription of [...open]) void subscription[Symbol.asyncDispose]();
      grown.ringAll(); // reads that wait find out
    }

    function checkOpen(): void {
      if (closed) throw new MillstreamError("CLOSED", 'Cannot use broker "memory": it was closed');
    }

    /** Refuses the call on a closed broker, also when it was closed while the call waited. */
    function whileOpen<A extends unknown[], R>(call: (...args: A) => Promise<R>): (...args: A) => Promise<R> {
      return async (...args) => {
        checkOpen();
        const result = await call(...args);
        checkOpen();
        return result;
      };
    }

    const deadLetters: DeadLetters = {
      list: whileOpen(office.list),
      count: whileOpen(office.count),
      get: whileOpen(office.get),
      redrive: whileOpen(office.redrive),
      remove: whileOpen(office.remove),
    };

    const scheduled: Scheduled = {
      cancel: whileOpen((topic, id) => Promise.resolve(topics.get(topic)?.recall(id) !== undefined)),
      // deno-lint-ignore require-await -- rejects instead of throwing
      reschedule: whileOpen(async (topic, id, delayMs) => {
        checkRange("delayMs", delayMs, 0, Number.MAX_SAFE_INTEGER);
        const message = topics.get(topic)?.recall(id);
        if (message) topics.get(topic)!.later(message, delayMs);
        return message !== undefined;
      }),
    };

    return {
      features: FEATURES,
      deadLetters,
      scheduled,
      log: { read: whileOpen(log.read) },
      // deno-lint-ignore require-await -- rejects instead of throwing
      async publish(topic, messages, { delayMs = 0, signal } = {}) {
        checkOpen();
        checkName("topic", topic);
        checkRange("delayMs", delayMs, 0, Number.MAX_SAFE_INTEGER);
        if (signal?.aborted) throw aborted(signal);
        if (messages.length > 0) topicNamed(topic).publish(messages, delayMs);
      },
      // deno-lint-ignore require-await -- rejects instead of throwing
      async subscribe(topicName, groupName, { from = "start", leaseMs = 30_000 } = {}) {
        checkOpen();
        checkName("topic", topicName);
        checkName("group", groupName);
        checkRange("leaseMs", leaseMs, 1, 86_400_000);
        const topic = topicNamed(topicName);
        const group = topic.group(groupName, checkStartFrom(from));
        const subscription = createSubscription({
          clock,
          topicName,
          topic,
          group,
          leaseMs,
          tokenPrefix: `s${++subscriptions}`,
          bury: (item, failure) => office.bury(topicName, group, item, failure),
          onClosed: (subscription) => open.delete(subscription),
        });
        open.add(subscription);
        return subscription;
      },
      // deno-lint-ignore require-await -- rejects instead of throwing
      async groups(filter = {}) {
        checkOpen();
        const now = clock.now();
        return [...topics]
          .filter(([topic]) => filter.topic === undefined || filter.topic === topic)
          .flatMap(([topic, { groups, delayed }]) =>
            [...groups.values()].map((group) => groupStatus(topic, group, delayed, now))
          )
          .sort(byTopicAndGroup);
      },
      // deno-lint-ignore require-await -- rejects instead of throwing
      async ping() {
        checkOpen();
      },
      // deno-lint-ignore require-await -- everything happens at once in memory
      async [Symbol.asyncDispose]() {
        if (!closed) close();
      },
    };
  }

  return {
    connect,
    trim: (topic) => topics.get(topic)?.trim(0),
    close() {
      for (const close of [...connections]) close();
      for (const topic of topics.values()) topic.close();
    },
  };
}

function groupStatus(topic: string, group: Group, waiting: number, now: number): GroupStatus {
  const { name, ready, inFlight, delayed, dead, oldestAt } = group;
  const counts = { topic, group: name, ready, inFlight, delayed: delayed + waiting, dead };
  return oldestAt === undefined ? counts : { ...counts, oldestMs: Math.max(0, now - oldestAt) };
}

function byTopicAndGroup(a: GroupStatus, b: GroupStatus): number {
  return a.topic < b.topic || (a.topic === b.topic && a.group < b.group) ? -1 : 1;
}

const FEATURES: BrokerFeatures = Object.freeze({
  name: "memory",
  persistent: false,
  replay: true,
  keyOrder: true,
  delay: true,
  deduplicates: true,
  fencedAck: true,
  replaySince: true,
  countsStarts: true,
  listsGroups: true,
  reschedules: true,
  reasons: { persistent: "memory ends with the process" },
});
