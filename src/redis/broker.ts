/**
 * The broker over Redis Streams.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import { type Observer, safeObserver } from "../core/observer.ts";
import type { Broker, BrokerFeatures, GroupStatus, SubscribeOptions, Subscription } from "../ports/broker.ts";
import type { RedisDriver } from "../ports/redis.ts";
import { checkStartFrom } from "../ports/start_from.ts";
import { redisDeadLetters } from "./dead_letters.ts";
import { ioredisDriver } from "./ioredis.ts";
import { groupKeys, topicKeys } from "./keys.ts";
import { allGroups } from "./lag.ts";
import { topicLog } from "./log.ts";
import { PROMOTE_DELAYED } from "./lua/publish.ts";
import { publisher } from "./publisher.ts";
import { asUnavailable } from "./replies.ts";
import { redisScheduled } from "./scheduled.ts";
import { subscription, type SubscriptionContext } from "./subscription.ts";
import { wakeups } from "./wakeups.ts";

/** Options of {@linkcode redis}. */
export type RedisOptions = RedisCommonOptions & (RedisUrl | RedisOwnDriver);

/** Connects through ioredis. */
export interface RedisUrl {
  /** `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. */
  readonly url: string;
  readonly driver?: undefined;
}

/** Connects through a driver of the caller's, who also disposes it. */
export interface RedisOwnDriver {
  readonly driver: RedisDriver;
  readonly url?: undefined;
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
  /** @default the runtime's own */
  readonly clock?: Clock;
  /** Told about lost leases, suspected loss of data and failing loops. */
  readonly observer?: Observer;
}

/**
 * A broker on Redis 6.2 or later (or Valkey), by Streams and consumer groups.
 *
 * - **Delivery**: at least once. A message counts as published when the server has it in memory and, with
 *   `appendonly yes`, in its append-only file as `appendfsync` says; replicas get it later. Nothing is ever trimmed,
 *   and `maxmemory-policy` must be `noeviction`, or the server may drop whole topics.
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
 * Creating it does no I/O. It holds one connection, plus one for each subscription and for each topic that is
 * followed as a log.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function redis(options: RedisOptions): Broker {
  const { prefix = "millstream", timeoutMs = 5_000, dedupWindowMs = 3_600_000, clock = systemClock } =
    options;
  checkName("prefix", prefix);
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("dedupWindowMs", dedupWindowMs, 0, 7 * 86_400_000, true);
  const own = options.driver === undefined;
  const driver = options.driver ??
    ioredisDriver({ url: options.url, connectTimeoutMs: Math.min(2_500, timeoutMs), clock });
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
  const subscriptions = new Set<Subscription>();
  let closing: Promise<void> | undefined;

  const publishing = publisher({ connection, clock, prefix, timeoutMs, dedupWindowMs, delayed });
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
    const dispose = async (): Promise<void> => {
      await joined[Symbol.asyncDispose]();
      subscriptions.delete(entered);
    };
    const entered: Subscription = { ...joined, [Symbol.asyncDispose]: dispose };
    subscriptions.add(entered);
    if (closing) await dispose();
    assertOpen("subscribe");
    return entered;
  }

  async function ping(): Promise<void> {
    try {
      await connection.call("ping", [], { timeoutMs: Math.min(timeoutMs, 3_000) });
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  async function close(): Promise<void> {
    timers.stop();
    await publishing.drained();
    await Promise.all([...subscriptions].map((open) => open[Symbol.asyncDispose]()));
    await log.close();
    await connection[Symbol.asyncDispose]();
    if (own) await driver[Symbol.asyncDispose]();
  }

  function assertOpen(what: string): void {
    if (closing) throw new MillstreamError("CLOSED", `Cannot ${what}: the broker was closed`);
  }

  /** Refuses calls once the broker is closed. */
  function whileOpen<Args extends unknown[], T>(
    what: string,
    work: (...args: Args) => Promise<T>,
  ): (...args: Args) => Promise<T> {
    return async (...args) => {
      assertOpen(what);
      return await work(...args);
    };
  }

  async function groups({ topic }: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    if (topic !== undefined) checkName("topic", topic);
    return await allGroups(connection, prefix, topic, timeoutMs);
  }

  const scheduled = redisScheduled({ connection, prefix, timeoutMs, delayed });
  const dead = redisDeadLetters({ connection, prefix, timeoutMs });
  return {
    features: features(dedupWindowMs),
    publish: whileOpen("publish", publishing.publish),
    subscribe: whileOpen("subscribe", subscribe),
    deadLetters: {
      list: whileOpen("list dead letters", dead.list),
      count: whileOpen("count dead letters", dead.count),
      get: whileOpen("get a dead letter", dead.get),
      redrive: whileOpen("redrive a dead letter", dead.redrive),
      remove: whileOpen("remove a dead letter", dead.remove),
    },
    log: { read: whileOpen("read", log.read) },
    scheduled: {
      cancel: whileOpen("cancel a message", scheduled.cancel),
      reschedule: whileOpen("reschedule a message", scheduled.reschedule),
    },
    groups: whileOpen("count groups", groups),
    ping: whileOpen("ping", ping),
    [Symbol.asyncDispose]: () => closing ??= close(),
  };
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
