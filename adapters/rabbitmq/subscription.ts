/**
 * One consumer of one group: a channel of its own, the leases of what it handed out, and the ways a delivery ends.
 *
 * RabbitMQ has no lease for a single message: what a channel holds is its own until the channel ends. So the lease runs
 * here, and a delivery that is not settled in time is put back by its own consumer; one that died or lost its connection
 * loses all at once, by the server. What ends a delivery travels on the channel that it came by, so a settlement can
 * never touch what has gone to another consumer.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { aborted, type Clock } from "../../src/core/clock.ts";
import { MillstreamError, toError } from "../../src/core/errors.ts";
import type { Observer } from "../../src/core/observer.ts";
import type { Delivery, GroupLag, Subscription } from "../../src/ports/broker.ts";
import type { Failure } from "../../src/ports/dead_letters.ts";
import { intake, type Received } from "./intake.ts";
import type { Line } from "./link.ts";
import { buried, type CopyFacts, copyOf, fromAmqp } from "./message.ts";
import type { AmqpProperties } from "./driver.ts";

/** What {@linkcode subscription} needs of its broker. */
export interface SubscriptionContext {
  readonly clock: Clock;
  readonly observe: Observer;
  readonly prefetch: number;
  /** A channel on which the group was declared. */
  readonly open: () => Promise<Line>;
  /** Puts a copy into the group's own queue, after `delayMs`. */
  readonly putBack: (body: Uint8Array, properties: AmqpProperties, delayMs: number) => Promise<void>;
  /** Puts a copy into the group's dead-letter queue. */
  readonly bury: (body: Uint8Array, properties: AmqpProperties) => Promise<void>;
  /** Counts of the group. */
  readonly lag: () => Promise<GroupLag>;
  /** Runs what moves messages from this process back to the server, which makes counts wrong for a moment. */
  readonly moving: (work: () => Promise<unknown>) => Promise<void>;
}

/** Where a consumer belongs. */
export interface Seat {
  readonly topic: string;
  readonly group: string;
  readonly queue: string;
  readonly leaseMs: number;
}

/** A subscription, and what it holds for the counts of its group. */
export interface OpenSubscription extends Subscription {
  readonly holds: { readonly inFlight: number; readonly buffered: number };
}

/** A delivery that was handed out and not settled. */
interface Held extends Received {
  readonly facts: CopyFacts;
  /** When its lease ends, monotonic. */
  expires: number;
}

/** Joins the group. Dispose it to leave. */
export function subscription(seat: Seat, context: SubscriptionContext): OpenSubscription {
  const { topic, group, queue, leaseMs } = seat;
  const { clock, observe } = context;
  const held = new Map<string, Held>();
  const underway = new Set<Promise<unknown>>();
  const incoming = intake({
    queue,
    clock,
    prefetch: context.prefetch,
    open: context.open,
    giveBack: (received) =>
      context.moving(() => Promise.all(received.map((one) => giveBack(one, factsOf(one))))),
    vanished: () =>
      observe({ kind: "data-loss-suspected", what: `${topic}/${group}`, detail: "the queue was deleted" }),
  });
  let tokens = 0;
  let stopWatch = (): void => {};
  let watching = Infinity;
  let leaving: Promise<void> | undefined;

  function handOut(received: Received): Delivery {
    const { message, facts } = fromAmqp(received.raw);
    const token = String(++tokens);
    held.set(token, { ...received, facts, expires: clock.monotonic() + leaseMs });
    return { ...message, topic, group, attempt: facts.attempt, redelivered: facts.suspect, token };
  }

  /** Looks after the lease that ends first. */
  function watch(): void {
    let first = Infinity;
    for (const { expires } of held.values()) first = Math.min(first, expires);
    if (first === watching) return;
    stopWatch();
    watching = first;
    if (first < Infinity) stopWatch = clock.after(Math.max(1, first - clock.monotonic()), expire);
  }

  function expire(): void {
    const now = clock.monotonic();
    for (const [token, one] of held) {
      if (one.expires > now) continue;
      held.delete(token);
      requeue(one);
    }
    watching = Infinity;
    watch();
  }

  /** Back to its place, marked as handed out before. */
  function requeue(one: Received): void {
    incoming.settled(one);
    if (!one.line.closed) one.line.channel.nack(one.raw, false, true);
  }

  /** Takes a delivery out of the hands of its holder, who is about to settle it. */
  function claim({ token }: Delivery): Held | undefined {
    const one = held.get(token);
    held.delete(token);
    return one && !one.line.closed ? one : undefined;
  }

  /** Acknowledges, and makes sure that the server has heard it. Returns those whose channel was lost. */
  async function finish(all: readonly Held[]): Promise<ReadonlySet<Held>> {
    for (const one of all) incoming.settled(one);
    const last = all.reduce((a, b) => tagOf(b) > tagOf(a) ? b : a);
    const covered = incoming.coversAll(last);
    if (covered && !last.line.closed) last.line.channel.ack(last.raw, true);
    for (const one of all) {
      if (!(covered && one.line === last.line) && !one.line.closed) one.line.channel.ack(one.raw);
    }
    const lines = [...new Set(all.map(({ line }) => line))];
    const heard = new Map(await Promise.all(lines.map(async (line) => [line, await reached(line)] as const)));
    return new Set(all.filter(({ line }) => !heard.get(line)));
  }

  /** AMQP confirms no acknowledgement; but what answers a later call on the channel has read it. */
  async function reached(line: Line): Promise<boolean> {
    if (line.closed) return false;
    const nothing = line.channel.cancel("no-such-consumer"); // the cheapest call there is
    return await line.call("reach RabbitMQ", nothing).then(() => true, () => false);
  }

  /** Settles one delivery by a copy of it elsewhere: first the copy is confirmed, then the original acknowledged. */
  async function replace(delivery: Delivery, copy: (one: Held) => Promise<void>): Promise<boolean> {
    const one = claim(delivery);
    if (!one) return false;
    try {
      await copy(one);
    } catch (error) {
      held.set(delivery.token, one); // it stays with its lease
      watch();
      throw error;
    }
    return (await finish([one])).size === 0;
  }

  async function ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const mine = new Map<Held, Delivery>();
    const tokens = new Set<string>();
    const lost: Delivery[] = [];
    for (const delivery of deliveries) {
      const one = claim(delivery);
      if (one) mine.set(one, delivery);
      else if (!tokens.has(delivery.token)) lost.push(delivery);
      tokens.add(delivery.token);
    }
    if (mine.size === 0) return lost;
    for (const one of await finish([...mine.keys()])) lost.push(mine.get(one)!);
    return lost;
  }

  function retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, 4_000_000_000);
    return replace(delivery, ({ raw, facts }) => {
      const next = {
        ...facts,
        attempt: facts.attempt + 1,
        firstFailedAt: facts.firstFailedAt || failure.at,
        suspect: false,
      };
      return context.putBack(raw.content, copyOf(raw, next), delayMs);
    });
  }

  function deadLetter(delivery: Delivery, failure: Failure): Promise<boolean> {
    return replace(delivery, ({ raw, facts }) => {
      const properties = copyOf(raw, { ...facts, firstFailedAt: facts.firstFailedAt || failure.at });
      const headers = { ...properties.headers, ...buried(crypto.randomUUID(), failure) };
      return context.bury(raw.content, { ...properties, headers });
    });
  }

  /** To the end of the queue, without a mark. If that cannot be, to its place with one. */
  async function giveBack(received: Received, facts: CopyFacts): Promise<void> {
    const { raw, line } = received;
    if (line.closed) return;
    try {
      await context.putBack(raw.content, copyOf(raw, facts), 0);
    } catch {
      requeue(received);
      return;
    }
    incoming.settled(received);
    if (!line.closed) line.channel.ack(raw);
  }

  async function release(deliveries: readonly Delivery[]): Promise<void> {
    const mine = deliveries.map(claim).filter((one) => one !== undefined);
    await Promise.all(mine.map((one) => giveBack(one, { ...one.facts, suspect: false })));
    watch();
  }

  async function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const lines = new Set<Line>();
    for (const { token } of deliveries) {
      const one = held.get(token);
      if (!one || one.line.closed) continue;
      one.expires = clock.monotonic() + leaseMs;
      lines.add(one.line);
    }
    watch();
    await Promise.all([...lines].map(reached));
    return deliveries.filter(({ token }) => held.get(token)?.line.closed ?? true);
  }

  async function leave(): Promise<void> {
    const unused = await incoming.close();
    await Promise.allSettled(underway);
    await Promise.all(unused.map((one) => giveBack(one, factsOf(one))));
    stopWatch();
    const lines = new Set([...held.values(), ...unused].map(({ line }) => line));
    held.clear();
    const last = incoming.line;
    if (last) lines.add(last);
    await Promise.all([...lines].map((line) => line.close())).catch((error) =>
      observe({ kind: "loop-failed", loop: `rabbitmq leave ${topic}/${group}`, error: toError(error) })
    );
  }

  function during<T>(what: string, work: () => Promise<T>): Promise<T> {
    if (leaving) return Promise.reject(closed(what));
    const running = (async () => await work())();
    underway.add(running);
    running.catch(() => {}).finally(() => underway.delete(running));
    return running;
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
    get holds() {
      return { inFlight: held.size, buffered: incoming.buffered };
    },
    async pull(max, options) {
      checkRange("max", max, 1, 10_000, true);
      checkRange("waitMs", options.waitMs, 0, 86_400_000);
      if (leaving) throw closed("pull");
      if (options.signal?.aborted) throw aborted(options.signal);
      const deliveries = (await incoming.take(max, options)).map(handOut);
      watch();
      return deliveries;
    },
    ack: (deliveries) => during("ack", () => ack(deliveries)),
    retry: (delivery, delayMs, failure) => during("retry", () => retry(delivery, delayMs, failure)),
    deadLetter: (delivery, failure) => during("dead-letter", () => deadLetter(delivery, failure)),
    begin: (delivery) =>
      during("begin", () => Promise.resolve(held.get(delivery.token)?.line.closed === false ? 1 : undefined)),
    extend: (deliveries) => during("extend", () => extend(deliveries)),
    release: (deliveries) => during("release", () => release(deliveries)),
    lag: () => during("count", context.lag),
    [Symbol.asyncDispose]: () => leaving ??= leave(),
  };
}

function tagOf({ raw }: Received): number {
  return raw.fields.deliveryTag ?? 0;
}

function factsOf({ raw }: Received): CopyFacts {
  return fromAmqp(raw).facts;
}
