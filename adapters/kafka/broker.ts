/**
 * The broker over Apache Kafka.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { type BindingMode, checkBindingMode } from "../../src/core/binding.ts";
import { type Clock, sleep, systemClock } from "../../src/core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../src/core/errors.ts";
import { checkName } from "../../src/core/names.ts";
import { type Observer, safeObserver } from "../../src/core/observer.ts";
import type {
  Broker,
  BrokerFeatures,
  GroupStatus,
  SubscribeOptions,
  Subscription,
} from "../../src/ports/broker.ts";
import { closableBroker } from "../../src/ports/closable.ts";
import { checkStartFrom, type StartFrom } from "../../src/ports/start_from.ts";
import { deadLetterOffice } from "./dead_letters.ts";
import type { KafkaDriver, NewTopic } from "./driver.ts";
import { kafkajs } from "./kafkajs.ts";
import { type GroupNames, groupNames, ownerOf } from "./names.ts";
import { partitionOf } from "./partitioner.ts";
import { prefixed } from "./prefix.ts";
import { createPublisher } from "./publisher.ts";
import { countGroup } from "./status.ts";
import { createSubscription } from "./subscription.ts";
import { kafkajsFor } from "./url.ts";

/** Options of {@linkcode kafka}. */
export type KafkaOptions = KafkaCommonOptions & (KafkaUrl | KafkaOwnDriver);

/** Connects through kafkajs. */
export interface KafkaUrl {
  /** `kafka://[user:password@]host[:port][,host[:port]...]`, or `kafkas://` for TLS. A user logs in by SASL/PLAIN. */
  readonly url: string;
  readonly driver?: undefined;
}

/** Connects through a driver of the caller's, who also disposes it. */
export interface KafkaOwnDriver {
  readonly driver: KafkaDriver;
  readonly url?: undefined;
}

/** Options of {@linkcode kafka} that do not say where the cluster is. */
export interface KafkaCommonOptions {
  /** First part of the names of all topics and groups, before a dot, so that applications can share a cluster. @default "" */
  readonly prefix?: string;
  /** Whether messages travel whole or with their attributes as headers. Both are always read. @default "structured" */
  readonly mode?: BindingMode;
  /** How topics come into being. */
  readonly topics?: KafkaTopicOptions;
  /** The largest message and the largest batch, in bytes; the brokers' `message.max.bytes`. @default 1_000_000 */
  readonly maxMessageBytes?: number;
  /** Deadline of every call, in milliseconds. @default 10_000 */
  readonly timeoutMs?: number;
  /**
   * A process that is silent for longer has lost its partitions, in milliseconds. Brokers accept 6,000 or more unless
   * they are configured otherwise. @default 10_000
   */
  readonly sessionTimeoutMs?: number;
  /** How long a rebalance waits for members that do not answer, in milliseconds. @default 30_000 */
  readonly rebalanceTimeoutMs?: number;
  /** How long the broker holds back an empty answer, in milliseconds. @default 500 */
  readonly fetchWaitMs?: number;
  /** A consumer that neither pulls nor holds deliveries for so long leaves its group until it pulls. @default 5_000 */
  readonly idleMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
  /** Told about lost memberships. */
  readonly observer?: Observer;
}

/** How topics come into being. */
export interface KafkaTopicOptions {
  /** Whether topics that are missing are created. If not, the topics of groups must be there as well. @default true */
  readonly create?: boolean;
  /** Partitions of a new topic: the most consumers of one group that can work at the same time. @default 12 */
  readonly partitions?: number;
  /** @default the brokers' `default.replication.factor` */
  readonly replicationFactor?: number;
  /** Configuration of new topics of messages, such as `{ "retention.ms": "-1", "min.insync.replicas": "2" }`. */
  readonly config?: Readonly<Record<string, string>>;
}

/**
 * A broker on Apache Kafka 2.5 or later.
 *
 * - **Delivery**: at least once. A message counts as published when all replicas in sync have it (`acks=all`); set
 *   `min.insync.replicas` to 2 or more for that to mean more than one machine. Kafka removes messages by the topic's
 *   retention, handled or not.
 * - **Groups** are Kafka's own (`topic/group`). Offsets are committed when deliveries are settled, without gaps; what is
 *   settled out of order, tried or delayed stands in the metadata of the commits, so that a crash repeats little.
 * - **Leases**: Kafka gives partitions, not messages, to consumers. A consumer that lets a lease run out while it does
 *   not pull leaves the group, and another one gets its partitions; one that still pulls gets the message again itself.
 *   A process that freezes loses its partitions after `sessionTimeoutMs`, and its late settlements are refused.
 * - **Order**: that of each key, also under retries, which wait in place and hold back their own key only.
 * - **Delays** are kept by each group's consumers: the message is in the topic at once, and handed out when its time has
 *   come. They are for minutes, not for weeks: until then the partition's committed offset stays behind.
 * - **Dead letters** and **redriven messages** have topics of their own for each group.
 *
 * Creating it does no I/O.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function kafka(options: KafkaOptions): Broker {
  const { prefix = "", mode = "structured", topics = {}, maxMessageBytes = 1_000_000, timeoutMs = 10_000 } =
    options;
  const { sessionTimeoutMs = 10_000, rebalanceTimeoutMs = 30_000, fetchWaitMs = 500, idleMs = 5_000 } =
    options;
  const { clock = systemClock } = options;
  if (prefix !== "") checkName("prefix", prefix);
  checkBindingMode(mode);
  checkRange("maxMessageBytes", maxMessageBytes, 2_000, 1_000_000_000, true);
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("sessionTimeoutMs", sessionTimeoutMs, 100, 3_600_000, true);
  checkRange("rebalanceTimeoutMs", rebalanceTimeoutMs, 100, 3_600_000, true);
  checkRange("fetchWaitMs", fetchWaitMs, 1, 30_000, true);
  checkRange("idleMs", idleMs, 1, 3_600_000);
  const { create = true, partitions = 12, replicationFactor, config = {} } = topics;
  checkRange("topics.partitions", partitions, 1, 10_000, true);
  const observe = safeObserver(options.observer);
  const own = options.driver === undefined;
  const client = options.driver ?? kafkajs(kafkajsFor(options.url, { timeoutMs }), { timeoutMs, clock });
  const driver = prefixed(client, prefix);
  const counts = new Map<string, Promise<number>>();

  const replicas = replicationFactor === undefined ? {} : { replicationFactor };
  const publishing = createPublisher({ driver, clock, mode, maxMessageBytes, partitions: topicPartitions });
  const dead = deadLetterOffice({ driver, mode, redrivenPartition });

  /** The number of partitions of a topic that is there or comes into being. */
  function topicPartitions(topic: string): Promise<number> {
    return remember(topic, () => present({ topic, partitions, ...replicas, config }));
  }

  function remember(topic: string, count: () => Promise<number>): Promise<number> {
    const known = counts.get(topic);
    if (known) return known;
    const counting = count();
    counts.set(topic, counting);
    counting.catch(() => counts.delete(topic));
    return counting;
  }

  async function present(wanted: NewTopic): Promise<number> {
    const { topic } = wanted;
    // Creating what is there does nothing, and asking for what is not there takes long.
    const refused = create ? await driver.createTopics([wanted]).catch((error: unknown) => error) : undefined;
    const deadline = clock.monotonic() + timeoutMs;
    for (;;) {
      const found = await driver.partitionCount(topic);
      if (found > 0) return found;
      if (!create || refused || clock.monotonic() > deadline) break;
      await sleep(clock, 10); // the brokers learn of it one after the other
    }
    if (refused) throw refused;
    const why = create ? "" : ', and option "topics.create" is false';
    throw new MillstreamError("NOT_FOUND", `Cannot use topic "${topic}": it does not exist${why}`, {
      details: { topic },
    });
  }

  /** The topics of a group. The redriven ones go to the same member as those of the topic: it has as many partitions. */
  async function groupTopics(names: GroupNames): Promise<void> {
    const count = await topicPartitions(names.topic);
    const kept = { "retention.ms": "-1" };
    const log = { "cleanup.policy": "compact", "message.timestamp.type": "LogAppendTime" };
    await Promise.all([
      remember(
        names.redriven,
        () => present({ topic: names.redriven, partitions: count, ...replicas, config: kept }),
      ),
      remember(names.dead, () => present({ topic: names.dead, partitions: 1, ...replicas, config: log })),
    ]);
  }

  async function redrivenPartition(names: GroupNames, key: string | undefined): Promise<number> {
    const count = await driver.partitionCount(names.redriven);
    return key === undefined ? Math.floor(Math.random() * count) : partitionOf(key, count);
  }

  async function subscribe(
    topic: string,
    group: string,
    { from = "start", leaseMs = 30_000 }: SubscribeOptions = {},
  ): Promise<Subscription> {
    checkName("topic", topic);
    checkName("group", group);
    checkRange("leaseMs", leaseMs, 50, 86_400_000);
    checkStartFrom(from, FEATURES);
    const names = groupNames(topic, group);
    await groupTopics(names);
    if (from !== "start") await begin(names, from);
    return createSubscription({
      driver,
      clock,
      observe,
      timeoutMs,
      sessionTimeoutMs,
      rebalanceTimeoutMs,
      fetchWaitMs,
      idleMs,
      names,
      leaseMs,
      bury: (item, failure) => dead.bury(names, item, failure),
      async count(own) {
        const counted = await countGroup(driver, names, clock.now(), own);
        return { ...counted, dead: await dead.count({ topic, group }) };
      },
    });
  }

  /** Puts a group that has committed nothing where it shall begin. */
  async function begin(names: GroupNames, from: Exclude<StartFrom, "start">): Promise<void> {
    const { topic, groupId } = names;
    if ((await driver.committed(groupId, [topic])).length > 0) return;
    const offsets = await driver.offsets(topic, from === "now" ? "end" : from.since);
    const member = await driver.join({
      group: groupId,
      topics: [topic, names.redriven],
      sessionTimeoutMs,
      rebalanceTimeoutMs,
      fetchWaitMs: 1,
      claims: () => [],
      onAssigned() {},
      onRecords: () => Promise.resolve(),
      onLost() {},
    });
    try {
      await member.commit(offsets.map((offset, partition) => ({ topic, partition, offset, metadata: "" })));
    } finally {
      await member.leave();
    }
  }

  async function groups(filter: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    const all = (await driver.listTopics()).flatMap((name) => {
      const owner = ownerOf(name);
      return owner?.redriven === name ? [owner] : [];
    });
    const wanted = all.filter(({ topic }) => filter.topic === undefined || filter.topic === topic);
    wanted.sort((a, b) => a.topic < b.topic || (a.topic === b.topic && a.group < b.group) ? -1 : 1);
    return await Promise.all(wanted.map(async (names) => {
      const { topic, group } = names;
      const counted = await countGroup(driver, names, clock.now());
      return { topic, group, ...counted, dead: await dead.count({ topic, group }) };
    }));
  }

  async function ping(): Promise<void> {
    try {
      await driver.listTopics();
    } catch (error) {
      if (isMillstreamError(error, "UNAVAILABLE", "REJECTED", "CLOSED")) throw error;
      throw new MillstreamError("UNAVAILABLE", `Cannot reach Kafka: ${(error as Error).message}`, {
        cause: error,
      });
    }
  }

  return closableBroker(
    { features: FEATURES, publish: publishing.publish, subscribe, deadLetters: dead, groups, ping },
    { drain: publishing.drained, release: async () => own ? await driver[Symbol.asyncDispose]() : undefined },
  );
}

const FEATURES: BrokerFeatures = Object.freeze({
  name: "kafka",
  persistent: true,
  replay: true,
  keyOrder: true,
  delay: true,
  deduplicates: false,
  fencedAck: true,
  replaySince: true,
  countsStarts: false,
  listsGroups: true,
  reschedules: false,
  emulated: {
    delay: "the message is in the topic at once; its consumers hold it back",
    fencedAck: "a lease runs in the consuming process, and the group's generation stops one that froze",
    keyOrder: "Kafka orders partitions; the consumer holds back the followers of a message that is retried",
  },
  reasons: {
    deduplicates: "Kafka recognises what one producer session repeats, not ids; the inbox does",
    countsStarts: "Kafka keeps nothing for single messages: it would cost a commit for each start",
    reschedules: "a log cannot be changed",
  },
});
