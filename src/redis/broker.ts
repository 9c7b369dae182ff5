/**
 * The broker over Redis Streams.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import { checkName } from "../core/names.ts";
import type { EncodedMessage } from "../core/message.ts";
import { type Observer, safeObserver } from "../core/observer.ts";
import type { Broker, BrokerFeatures, GroupStatus, SubscribeOptions, Subscription } from "../ports/broker.ts";
import { closableBroker } from "../ports/closable.ts";
import type { RedisDriver } from "../ports/redis.ts";
import { checkStartFrom } from "../ports/start_from.ts";
import { clusterDriver } from "./cluster.ts";
import { redisDeadLetters } from "./dead_letters.ts";
import { confirmations, type Durability } from "./durability.ts";
import { ioredisDriver } from "./ioredis.ts";
import { groupKeys, topicKeys } from "./keys.ts";
import { allGroups } from "./lag.ts";
import { topicLog } from "./log.ts";
import { PROMOTE_DELAYED } from "./lua/publish.ts";
import { checkDurability, publisher, type RedisPublishOptions } from "./publisher.ts";
import { asUnavailable } from "./replies.ts";
import { caretaker, checkRetention, type Retention } from "./retention.ts";
import { redisScheduled } from "./scheduled.ts";
import { sentinelDriver, type SentinelOptions } from "./sentinel.ts";
import { subscription, type SubscriptionContext } from "./subscription.ts";
import { wakeups } from "./wakeups.ts";
import { warn } from "./warnings.ts";

/** Options of {@linkcode redis}. */
export type RedisOptions = RedisCommonOptions & (RedisUrl | RedisCluster | RedisSentinel | RedisOwnDriver);

/** Connects through ioredis. */
export interface RedisUrl {
  /** `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. */
  readonly url: string;
  readonly cluster?: undefined;
  readonly sentinel?: undefined;
  readonly driver?: undefined;
}

/** Connects to a Redis Cluster through ioredis. */
export interface RedisCluster {
  /** URLs of some of its servers, see {@linkcode ClusterOptions.urls}. */
  readonly cluster: readonly string[];
  readonly url?: undefined;
  readonly sentinel?: undefined;
  readonly driver?: undefined;
}

/** Connects to the primary that Sentinels name, through ioredis. */
export interface RedisSentinel {
  readonly sentinel: Pick<SentinelOptions, "urls" | "name" | "server">;
  readonly url?: undefined;
  readonly cluster?: undefined;
  readonly driver?: undefined;
}

/** Connects through a driver of the caller's, who also disposes it. */
export interface RedisOwnDriver {
  readonly driver: RedisDriver;
  readonly url?: undefined;
  readonly cluster?: undefined;
  readonly sentinel?: undefined;
}

/** Options of {@linkcode redis} that do not say where the server is. */
export interface RedisCommonOptions {
  /** First part of every key, so that applications can share a server. @default "millstream" */
  readonly prefix?: string;
  /** Deadline of every call to the server, in milliseconds. @default 5_000 */
  readonly timeoutMs?: number;
  /**
   * For how long an id that was published is recognised when it is published again, in milliseconds; 0 recognises
   * none. Of one topic at least the last 262,144 ids are remembered, and never more than twice as many, so at high
   * rates the window is shorter. @default 3_600_000
   */
  readonly dedupWindowMs?: number;
  /** When a message counts as published. @default "memory" */
  readonly durability?: Durability;
  /** How many replicas must have what is published with durability `replicated`. @default 1 */
  readonly replicas?: number;
  /** What may be removed from topics. @default nothing is ever removed */
  readonly retention?: Retention;
  /** @default the runtime's own */
  readonly clock?: Clock;
  /**
   * Told about lost leases, suspected loss of data, failing loops, groups that keep a topic from being trimmed, and
   * settings of the server with which it may lose what it accepted.
   */
  readonly observer?: Observer;
}

/** A broker on Redis. */
export interface RedisBroker extends Broker {
  publish(topic: string, messages: readonly EncodedMessage[], options?: RedisPublishOptions): Promise<void>;
}

/**
 * A broker on Redis 6.2 or later (or Valkey), by Streams and consumer groups.
 *
 * - **Delivery**: at least once. A message counts as published when the server has it in memory and, with
 *   `appendonly yes`, in its append-only file as `appendfsync` says; replicas get it later. `maxmemory-policy` must be
 *   `noeviction`, or the server may drop whole topics.
 * - **Durability** `replicated` waits until `replicas` replicas have the message in memory (WAIT), `fsynced` until it is
 *   on the server's own disk: by WAITAOF, which needs Redis 7.2, or because the server has `appendfsync always`; other
 *   servers are refused with `UNSUPPORTED` before anything is sent. What is not confirmed in time is
 *   `PUBLISH_INDETERMINATE`: it was accepted, and may be lost if the server is. Settlements are confirmed by the server
 *   alone: after a failover, what was settled last may come again.
 * - **Retention**: nothing is removed from a topic unless `retention` says what may be; and then only what every group
 *   has settled. A group that is not there at the moment counts with its low-water mark; one that no longer settles
 *   anything keeps the topic growing, and is reported as `topic-pinned`.
 * - **Publishing** an id again within the window adds nothing. Concurrent calls for one topic travel together.
 * - **Groups** begin at the start or the end as asked; one that vanished begins again at its low-water mark or at the
 *   start, and `data-loss-suspected` is reported.
 * - **Leases** run by the server's clock. What a dead consumer held is taken over within two seconds after its lease
 *   ran out, by any consumer of the group that is pulling. Late settlements are refused, on the server.
 * - **Order**: the log keeps the order of publishing. Of the messages with one key, a group has one out at a time, in
 *   that order, across all its consumers, through retries, releases and crashes; other keys and messages without a key
 *   do not wait for it. A dead letter lets its followers go on, and comes back behind them. While 10,000 messages wait
 *   for earlier ones of their keys, a group reads no further in the log.
 *
 * - **Cluster and Sentinel**: everything of a topic lies in one slot, so every operation is as atomic there. Calls that a
 *   server refuses because it is not responsible or not ready, and calls that could not be sent, go to where they belong
 *   until their deadline. A failover may lose what its replica did not have: see durability.
 *
 * Creating it does no I/O. It holds one connection, one for each subscription and for each topic that is followed as a
 * log, and one if anything is published more durably than in memory; in a cluster, one of each for every server it needs.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function redis(options: RedisOptions): RedisBroker {
  const { prefix = "millstream", timeoutMs = 5_000, dedupWindowMs = 3_600_000, clock = systemClock } =
    options;
  const { durability = "memory", replicas = 1, retention } = options;
  checkName("prefix", prefix);
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("dedupWindowMs", dedupWindowMs, 0, 7 * 86_400_000, true);
  checkRange("replicas", replicas, 1, 100, true);
  checkDurability(durability);
  if (retention) checkRetention(retention);
  const own = options.driver === undefined;
  const driver = options.driver ?? newDriver(options, Math.min(2_500, timeoutMs), clock);
  const connection = driver.connect("main");
  const timers = wakeups(clock);
  const observe = safeObserver(options.observer);
  const context: SubscriptionContext = {
    driver,
    connection,
    clock,
    observe,
    wakeups: timers,
    timeoutMs,
    prefix,
  };

  const confirming = confirmations({ driver, clock, replicas });
  const publishing = publisher({
    connection,
    clock,
    prefix,
    timeoutMs,
    dedupWindowMs,
    durability,
    confirmations: confirming,
    delayed,
  });
  const care = retention && caretaker({ connection, clock, observe, prefix, timeoutMs, retention });
  let asked = options.observer === undefined;
  const log = topicLog({ driver, connection, clock, prefix, timeoutMs });

  function delayed(topic: string, delayMs: number): void {
    const keys = topicKeys(prefix, topic);
    const names = [keys.delayed, keys.delayedIds, keys.log];
    timers.plan(
      keys.delayed,
      delayMs,
      async () => await connection.script(PROMOTE_DELAYED, names, [], { timeoutMs }) as number,
    );
  }

  async function subscribe(
    topic: string,
    group: string,
    { from = "start", leaseMs = 30_000 }: SubscribeOptions = {},
  ): Promise<Subscription> {
    checkName("topic", topic);
    checkName("group", group);
    checkRange("leaseMs", leaseMs, 50, 86_400_000);
    checkStartFrom(from, features(dedupWindowMs));
    const keys = groupKeys(prefix, topic, group);
    const joined = await subscription({ topic, group, keys, from, leaseMs }, context);
    lookAfter(topic);
    return joined;
  }

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    options?: RedisPublishOptions,
  ): Promise<void> {
    await publishing.publish(topic, messages, options);
    lookAfter(topic);
  }

  /** Once a topic is in use. */
  function lookAfter(topic: string): void {
    care?.watch(topic);
    if (asked) return;
    asked = true;
    void warn(connection, observe, { key: topicKeys(prefix, topic).log, timeoutMs });
  }

  async function ping(): Promise<void> {
    try {
      await connection.call("ping", [], { timeoutMs: Math.min(timeoutMs, 3_000) });
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  async function groups({ topic }: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    if (topic !== undefined) checkName("topic", topic);
    return await allGroups(connection, prefix, topic, timeoutMs);
  }

  return closableBroker(
    {
      features: features(dedupWindowMs),
      publish,
      subscribe,
      deadLetters: redisDeadLetters({ connection, prefix, timeoutMs }),
      log,
      scheduled: redisScheduled({ connection, prefix, timeoutMs, delayed }),
      groups,
      ping,
    },
    {
      async drain() {
        timers.stop();
        care?.stop();
        await publishing.drained();
      },
      async release() {
        await log.close();
        await confirming.close();
        await connection[Symbol.asyncDispose]();
        if (own) await driver[Symbol.asyncDispose]();
      },
    },
  );
}

function newDriver(options: RedisOptions, connectTimeoutMs: number, clock: Clock): RedisDriver {
  const { url = "", cluster, sentinel } = options;
  if (cluster) return clusterDriver({ urls: cluster, connectTimeoutMs, clock });
  if (sentinel) return sentinelDriver({ ...sentinel, connectTimeoutMs, clock });
  return ioredisDriver({ url, connectTimeoutMs, clock });
}

function features(dedupWindowMs: number): BrokerFeatures {
  return {
    name: "redis-streams",
    persistent: true,
    replay: true,
    keyOrder: true,
    delay: true,
    deduplicates: dedupWindowMs > 0,
    fencedAck: true,
    replaySince: true,
    countsStarts: true,
    listsGroups: true,
    reschedules: true,
    reasons: {
      ...(dedupWindowMs > 0 ? {} : { deduplicates: "dedupWindowMs is 0" }),
    },
  };
}
