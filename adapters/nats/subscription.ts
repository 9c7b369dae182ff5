/**
 * One consumer of one group: what it pulled, the leases of what it handed out, and the ways a delivery ends.
 *
 * JetStream has one `ack_wait` for a whole consumer and accepts late acknowledgements (nats-server#4786). So a lease
 * runs here: a living process says `working` every third of `ack_wait` for as long as the lease lasts, puts back what
 * is not settled in time, and refuses to settle what the server may have given to another one meanwhile.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { aborted, type Clock } from "../../src/core/clock.ts";
import { MillstreamError, toError } from "../../src/core/errors.ts";
import type { Observer } from "../../src/core/observer.ts";
import type { Delivery, GroupLag, Subscription } from "../../src/ports/broker.ts";
import type { Failure } from "../../src/ports/dead_letters.ts";
import type { NatsConnection, NatsMessage } from "./driver.ts";
import { intake } from "./intake.ts";
import { buried, type CopyFacts, copyOf, fromNats, type Wire } from "./message.ts";

/** What {@linkcode subscription} needs of its broker. */
export interface SubscriptionContext {
  readonly clock: Clock;
  readonly observe: Observer;
  readonly connection: () => Promise<NatsConnection>;
  /** Resolves when the server has read all that was sent. */
  readonly flush: (what: string) => Promise<void>;
  /** Makes the group again. */
  readonly rejoin: () => Promise<void>;
  /** Puts a copy into the group, confirmed. */
  readonly putBack: (copy: Wire, delayMs: number) => Promise<void>;
  /** Puts a copy among the dead letters, confirmed. */
  readonly bury: (copy: Wire) => Promise<void>;
  readonly lag: () => Promise<GroupLag>;
}

/** Where a consumer belongs. */
export interface Seat {
  readonly topic: string;
  readonly group: string;
  /** Subject that asks for messages. */
  readonly ask: string;
  /** Subject of copies for the group. */
  readonly own: string;
  /** Subject of what everybody gets. */
  readonly shared: string;
  readonly leaseMs: number;
  readonly ackWaitMs: number;
  /** Nothing that the server took before is for the group, in milliseconds since 1970. */
  readonly since: number;
}

/** A delivery that was handed out and not settled. */
interface Held {
  readonly raw: NatsMessage;
  readonly facts: CopyFacts;
  readonly place: Place;
  /** When its lease ends, monotonic. */
  expires: number;
  /** Until then the server gives it to nobody else, monotonic. */
  safeUntil: number;
}

/** What the reply subject of a message says: `$JS.ACK.<stream>.<consumer>.<deliveries>.<seq>.<...>.<time>.<...>`. */
interface Place {
  readonly deliveries: number;
  readonly seq: number;
  /** When the server took it, in milliseconds since 1970. */
  readonly at: number;
}

/** Joins the group. Dispose it to leave. */
export function subscription(seat: Seat, context: SubscriptionContext): Subscription {
  const { topic, group, leaseMs, ackWaitMs } = seat;
  const { clock, observe } = context;
  const held = new Map<string, Held>();
  const underway = new Set<Promise<unknown>>();
  const received = new WeakMap<NatsMessage, number>();
  let tokens = 0;
  let stopWatch = (): void => {};
  let watching = Infinity;
  let stopBeat = (): void => {};
  let beating = false;
  let leaving: Promise<void> | undefined;
  let sender: NatsConnection | undefined;

  const incoming = intake({
    name: `${topic}/${group}`,
    clock,
    ask: seat.ask,
    async connection() {
      return sender = await context.connection();
    },
    accept,
    giveBack: (messages) => messages.forEach((raw) => answer(raw, "-NAK")),
    async rejoin() {
      observe({ kind: "data-loss-suspected", what: `${topic}/${group}`, detail: "the group was deleted" });
      await context.rejoin();
    },
  });

  function answer({ reply = "" }: NatsMessage, word: string): void {
    if (sender && !sender.isClosed()) sender.publish(reply, word);
  }

  /** Keeps what is for this group and due; settles the rest. */
  function accept(raw: NatsMessage): boolean {
    const { at } = placeOf(raw);
    if ((raw.subject !== seat.own && raw.subject !== seat.shared) || at < seat.since) {
      answer(raw, "+ACK");
      return false;
    }
    const delayMs = Number(raw.headers?.get("millstream-delay") || 0);
    const left = delayMs > 0 ? Math.min(delayMs, at + delayMs - clock.now()) : 0;
    if (left > 0) {
      answer(raw, `-NAK {"delay":${Math.ceil(left) * 1_000_000}}`);
      return false;
    }
    received.set(raw, clock.monotonic());
    return true;
  }

  function handOut(raw: NatsMessage): Delivery {
    const place = placeOf(raw);
    const { message, facts } = fromNats(raw, `${topic}:${place.seq}`);
    const token = String(++tokens);
    const now = clock.monotonic();
    held.set(token, {
      raw,
      facts,
      place,
      expires: now + leaseMs,
      safeUntil: (received.get(raw) ?? now) + ackWaitMs,
    });
    // What was delayed came once before its time.
    const redelivered = place.deliveries > (facts.delayMs > 0 ? 2 : 1);
    return { ...message, topic, group, attempt: facts.attempt, redelivered, token };
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
      answer(one.raw, "-NAK");
    }
    watching = Infinity;
    watch();
  }

  /** Signs of life for what is held, until nothing is. */
  function beat(): void {
    if (beating || held.size === 0 || leaving) return;
    beating = true;
    stopBeat = clock.after(ackWaitMs / 3, async () => {
      await work([...held.values()]).catch((error) =>
        observe({ kind: "loop-failed", loop: `nats working ${topic}/${group}`, error: toError(error) })
      );
      beating = false;
      beat();
    });
  }

  async function work(all: readonly Held[]): Promise<void> {
    const until = clock.monotonic() + ackWaitMs;
    for (const { raw } of all) answer(raw, "+WPI");
    await context.flush("give a sign of life");
    for (const one of all) if (isSafe(one)) one.safeUntil = until;
  }

  function isSafe({ safeUntil }: Held): boolean {
    return clock.monotonic() < safeUntil;
  }

  /** Takes a delivery out of the hands of its holder, who is about to settle it. */
  function claim({ token }: Delivery): Held | undefined {
    const one = held.get(token);
    held.delete(token);
    return one && isSafe(one) ? one : undefined;
  }

  /** Acknowledges, and makes sure that the server has read it. */
  async function finish(all: readonly Held[]): Promise<boolean> {
    for (const { raw } of all) answer(raw, "+ACK");
    return await context.flush("acknowledge").then(() => true, () => false);
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
    return await finish([one]);
  }

  /** Names a copy after what it was made of: one that is made twice is recognised by the server. */
  function copyId({ place }: Held, what: string): string {
    return `${group}:${place.seq}:${what}`;
  }

  async function ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const mine: Held[] = [];
    const claimed: Delivery[] = [];
    const lost: Delivery[] = [];
    const tokens = new Set<string>();
    for (const delivery of deliveries) {
      if (tokens.has(delivery.token)) continue;
      tokens.add(delivery.token);
      const one = claim(delivery);
      if (one) {
        mine.push(one);
        claimed.push(delivery);
      } else lost.push(delivery);
    }
    if (mine.length > 0 && !await finish(mine)) lost.push(...claimed);
    return lost;
  }

  function retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, 366 * 86_400_000);
    return replace(delivery, (one) => {
      const { facts } = one;
      const firstFailedAt = facts.firstFailedAt || failure.at;
      const next = { ...facts, attempt: facts.attempt + 1, firstFailedAt, delayMs };
      return context.putBack(copyOf(one.raw, next, copyId(one, "retry")), delayMs);
    });
  }

  function deadLetter(delivery: Delivery, failure: Failure): Promise<boolean> {
    return replace(delivery, (one) => {
      const { facts, raw } = one;
      const last = { ...facts, firstFailedAt: facts.firstFailedAt || failure.at, delayMs: 0 };
      const copy = copyOf(raw, last, `${topic}:${copyId(one, "dead")}`);
      return context.bury({ ...copy, headers: { ...copy.headers, ...buried(failure) } });
    });
  }

  async function release(deliveries: readonly Delivery[]): Promise<void> {
    const mine = deliveries.map(claim).filter((one) => one !== undefined);
    await Promise.all(mine.map(async (one) => {
      try {
        await context.putBack(copyOf(one.raw, { ...one.facts, delayMs: 0 }, copyId(one, "release")), 0);
        answer(one.raw, "+ACK");
      } catch {
        answer(one.raw, "-NAK"); // to its place, and marked
      }
    }));
    if (mine.length > 0) await context.flush("release");
  }

  async function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const mine = deliveries.map(({ token }) => held.get(token)).filter((one) => one !== undefined).filter(
      isSafe,
    );
    for (const one of mine) one.expires = clock.monotonic() + leaseMs;
    watch();
    if (mine.length > 0) await work(mine).catch(() => {});
    return deliveries.filter(({ token }) => {
      const one = held.get(token);
      return !one || !isSafe(one);
    });
  }

  async function leave(): Promise<void> {
    const unused = await incoming.close();
    await Promise.allSettled(underway);
    stopWatch();
    stopBeat();
    for (const { raw } of held.values()) answer(raw, "-NAK");
    for (const raw of unused) answer(raw, "-NAK");
    const any = held.size + unused.length > 0;
    held.clear();
    if (any) await context.flush("leave").catch(() => {}); // their time brings them back
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
    async pull(max, options) {
      checkRange("max", max, 1, 10_000, true);
      checkRange("waitMs", options.waitMs, 0, 86_400_000);
      if (leaving) throw closed("pull");
      if (options.signal?.aborted) throw aborted(options.signal);
      const deliveries = (await incoming.take(max, options)).map(handOut);
      watch();
      beat();
      return deliveries;
    },
    ack: (deliveries) => during("ack", () => ack(deliveries)),
    retry: (delivery, delayMs, failure) => during("retry", () => retry(delivery, delayMs, failure)),
    deadLetter: (delivery, failure) => during("dead-letter", () => deadLetter(delivery, failure)),
    begin: ({ token }) =>
      during("begin", () => {
        const one = held.get(token);
        return Promise.resolve(one && isSafe(one) ? 1 : undefined);
      }),
    extend: (deliveries) => during("extend", () => extend(deliveries)),
    release: (deliveries) => during("release", () => release(deliveries)),
    lag: () => during("count", context.lag),
    [Symbol.asyncDispose]: () => leaving ??= leave(),
  };
}

function placeOf({ reply = "" }: NatsMessage): Place {
  const parts = reply.split(".");
  // Newer servers put a domain and an account before the stream.
  const [deliveries, seq, , nanoseconds] = parts.slice(parts.length >= 11 ? 6 : 4).map(Number);
  return { deliveries: deliveries ?? 1, seq: seq ?? 0, at: (nanoseconds ?? 0) / 1_000_000 };
}
