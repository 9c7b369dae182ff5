/**
 * One consumer of one group: joins, reads, settles, leaves.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { MillstreamError, toError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";
import type { GroupLag, StartFrom, Subscription } from "../ports/broker.ts";
import type { RedisConnection, RedisDriver } from "../ports/redis.ts";
import { ledger, type Membership } from "./delivery.ts";
import { type GroupKeys, laneKeys, topicsKey } from "./keys.ts";
import { groupLag } from "./lag.ts";
import { JOIN, LEAVE, REGISTER } from "./lua/group.ts";
import { PROMOTE_LATER } from "./lua/publish.ts";
import { reader } from "./reader.ts";
import { asUnavailable } from "./replies.ts";
import { settler } from "./settle.ts";
import type { Wakeups } from "./wakeups.ts";

/** What {@linkcode subscription} needs. */
export interface SubscriptionContext {
  readonly driver: RedisDriver;
  /** The broker's own connection, shared by everything that does not wait. */
  readonly connection: RedisConnection;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly wakeups: Wakeups;
  readonly timeoutMs: number;
  readonly prefix: string;
}

/** Where a consumer belongs. */
export interface Seat {
  readonly topic: string;
  readonly group: string;
  readonly keys: GroupKeys;
  readonly from: StartFrom;
  readonly leaseMs: number;
}

/** Joins the group as a new consumer. Dispose it to leave. */
export async function subscription(seat: Seat, context: SubscriptionContext): Promise<Subscription> {
  const { topic, group, keys, leaseMs } = seat;
  const { connection, clock, observe, wakeups, timeoutMs } = context;
  const member: Membership = {
    topic,
    group,
    keys,
    leaseMs,
    consumer: `${crypto.randomUUID()}.${Math.ceil(leaseMs)}`,
    ledger: ledger(),
  };
  await join(seat, context, false);

  const underway = new Set<Promise<unknown>>();
  const settle = settler({ member, connection, observe, timeoutMs });
  const incoming = reader({
    member,
    connection: context.driver.connect(`reader:${topic}:${group}`),
    clock,
    observe,
    timeoutMs,
    rejoin: () => join(seat, context, true),
    handBack: (deliveries) => settle.release(deliveries).catch(() => {}), // their lease brings them back
  });
  let leaving: Promise<void> | undefined;

  /** Runs a settlement unless the subscription was closed, and lets closing wait for it. */
  function during<T>(what: string, work: () => Promise<T>): Promise<T> {
    if (leaving) return Promise.reject(closed(what));
    const running = work();
    underway.add(running);
    running.catch(() => {}).finally(() => underway.delete(running));
    return running;
  }

  async function lag(): Promise<GroupLag> {
    const { ready, inFlight, delayed, dead } = await groupLag(connection, keys, group, timeoutMs);
    return { ready, inFlight, delayed, dead };
  }

  async function leave(): Promise<void> {
    await Promise.allSettled(underway);
    await incoming.close();
    try {
      while (await connection.script(LEAVE, laneKeys(keys), [group, member.consumer], { timeoutMs }) === 0);
    } catch (error) {
      // The lease hands back what this could not.
      observe({ kind: "loop-failed", loop: `redis leave ${topic}/${group}`, error: toError(error) });
    }
  }

  function closed(what: string): MillstreamError {
    return new MillstreamError(
      "CLOSED",
      `Cannot ${what} in "${topic}/${group}": the subscription was closed`,
    );
  }

  return {
    topic,
    group,
    async pull(max, options) {
      checkRange("max", max, 1, 10_000, true);
      checkRange("waitMs", options.waitMs, 0, 86_400_000);
      return await incoming.take(max, options);
    },
    ack: (deliveries) => during("ack", () => settle.ack(deliveries)),
    retry: (delivery, delayMs, failure) =>
      during("retry", async () => {
        checkRange("delayMs", delayMs, 0, 366 * 86_400_000);
        const done = await settle.retry(delivery, delayMs, failure);
        if (done && delayMs > 0) {
          const names = [keys.later, keys.retry, keys.heads];
          wakeups.plan(keys.later, delayMs, async () =>
            await connection.script(PROMOTE_LATER, names, [], { timeoutMs }) as number);
        }
        return done;
      }),
    deadLetter: (delivery, failure) => during("dead-letter", () => settle.deadLetter(delivery, failure)),
    begin: (delivery) => during("begin", () => settle.begin(delivery)),
    extend: (deliveries) => during("extend", () => settle.extend(deliveries)),
    release: (deliveries) => during("release", () => settle.release(deliveries)),
    lag: () => during("count", lag),
    [Symbol.asyncDispose]: () => leaving ??= leave(),
  };
}

/**
 * Makes sure that topic and group exist, and tells if something is missing that was there before.
 *
 * @param again Whether the consumer was in the group before. Then a group that has to be made starts at its low-water
 * mark or at the start, whatever was asked for when it was new.
 */
async function join(seat: Seat, context: SubscriptionContext, again: boolean): Promise<void> {
  const { topic, group, keys } = seat;
  const { connection, timeoutMs, prefix, observe } = context;
  try {
    // The topic is noted first: a dead letter must never lie in a topic that nobody can find.
    await connection.script(REGISTER, [topicsKey(prefix)], [topic], { timeoutMs });
    const from = typeof seat.from === "object" ? String(seat.from.since) : seat.from;
    const args = [group, again ? "start" : from];
    const reply = await connection.script(JOIN, [...laneKeys(keys), keys.groups], args, { timeoutMs });
    const [madeLog, madeRetry, known] = reply as readonly [number, number, number];
    if ((madeLog === 1 || madeRetry === 1) && (again || known === 1)) {
      const detail = "the group vanished and was made again";
      observe({ kind: "data-loss-suspected", what: `${topic}/${group}`, detail });
    }
  } catch (error) {
    throw asUnavailable(error);
  }
}
