/**
 * A consumer in memory: pulls from its group and holds what it took under a lease.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { aborted, type Clock, sleep, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Delivery, PullOptions, Subscription } from "../ports/broker.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { Group, Item } from "./group.ts";
import type { Topic } from "./topic.ts";

/** Lost leases that a consumer remembers, to tell them from what it settled itself. */
const REMEMBERED_LOSSES = 10_000;
/** How long pulls may find messages without a pause before timers and I/O get their turn. */
const BREATH_MS = 50;

/** What a subscription belongs to. */
export interface SubscriptionSetting {
  readonly clock: Clock;
  readonly topicName: string;
  readonly topic: Topic;
  readonly group: Group;
  readonly leaseMs: number;
  /** Begins each token: unique among subscriptions. */
  readonly tokenPrefix: string;
  bury(item: Item, failure: Failure): void;
  onClosed(subscription: Subscription): void;
}

interface Held {
  readonly item: Item;
  readonly token: string;
  until: number;
}

/** A new consumer of a group. */
export function createSubscription(setting: SubscriptionSetting): Subscription {
  const { clock, topic, topicName, group, leaseMs, tokenPrefix } = setting;
  const held = new Map<string, Held>(); // by token; first to run out first, as all leases are equally long
  const lost = new Set<string>();
  const pulling = new Set<() => void>();
  let cancelExpiry: (() => void) | undefined;
  let lastBreath = clock.monotonic();
  let handedOut = 0;
  let closed = false;

  async function pull(max: number, { waitMs, signal }: PullOptions): Promise<readonly Delivery[]> {
    checkOpen();
    checkRange("max", max, 1, 1_000_000, true);
    checkRange("waitMs", waitMs, 0, Number.MAX_SAFE_INTEGER);
    if (signal?.aborted) throw aborted(signal);
    await breathe();
    checkOpen();
    if (signal?.aborted) throw aborted(signal);
    const items = group.take(max);
    return items.length > 0 || waitMs <= 0 ? handOut(items) : await waitForItems(max, waitMs, signal);
  }

  /**
   * A loop of pulls that always finds messages would otherwise keep timers and I/O from ever running. On a clock of
   * the caller's own, timers run when the caller says so.
   */
  async function breathe(): Promise<void> {
    if (clock !== systemClock || clock.monotonic() - lastBreath < BREATH_MS) return;
    if (group.ready > 0) await sleep(clock, 0);
    lastBreath = clock.monotonic();
  }

  function waitForItems(max: number, waitMs: number, signal?: AbortSignal): Promise<readonly Delivery[]> {
    return new Promise((resolve, reject) => {
      const stopWaiting = group.wait(max, (items) => {
        leave();
        lastBreath = clock.monotonic();
        resolve(handOut(items));
      });
      const cancelTimer = clock.after(waitMs, giveUp);
      signal?.addEventListener("abort", onAbort, { once: true });
      pulling.add(giveUp);
      function giveUp(): void {
        leave();
        resolve([]);
      }
      function onAbort(): void {
        leave();
        reject(aborted(signal));
      }
      function leave(): void {
        stopWaiting();
        cancelTimer();
        pulling.delete(giveUp);
        signal?.removeEventListener("abort", onAbort);
      }
    });
  }

  function handOut(items: readonly Item[]): readonly Delivery[] {
    const until = clock.monotonic() + leaseMs;
    const deliveries = items.map((item) => {
      const token = `${tokenPrefix}-${++handedOut}`;
      held.set(token, { item, token, until });
      const { message, attempt, redelivered } = item;
      item.redelivered = true;
      return { ...message, topic: topicName, group: group.name, attempt, redelivered, token };
    });
    watchLeases();
    return deliveries;
  }

  function watchLeases(): void {
    if (cancelExpiry || held.size === 0) return;
    const [first] = held.values();
    cancelExpiry = clock.after(Math.max(0, first!.until - clock.monotonic()), () => {
      cancelExpiry = undefined;
      expire();
      watchLeases();
    });
  }

  function expire(): void {
    const now = clock.monotonic();
    const items: Item[] = [];
    for (const { item, token, until } of held.values()) {
      if (until > now) break;
      held.delete(token);
      remember(token);
      items.push(item);
    }
    if (items.length > 0) group.back(items);
  }

  function remember(token: string): void {
    const [oldest] = lost.size < REMEMBERED_LOSSES ? [] : lost;
    if (oldest !== undefined) lost.delete(oldest);
    lost.add(token);
  }

  /** Takes a delivery out of this consumer's hands; `undefined` if it is not in them. */
  function settle({ token }: Delivery): Item | undefined {
    const item = held.get(token)?.item;
    held.delete(token); // the timer stays: setting and clearing one per delivery would cost more
    return item;
  }

  function isLost({ token }: Delivery): boolean {
    return lost.has(token) || !token.startsWith(`${tokenPrefix}-`);
  }

  function checkOpen(): void {
    if (!closed) return;
    throw new MillstreamError("CLOSED", `Cannot use subscription of group "${group.name}": it was closed`);
  }

  const subscription: Subscription = {
    topic: topicName,
    group: group.name,
    pull,
    // deno-lint-ignore require-await -- rejects instead of throwing
    async ack(deliveries) {
      checkOpen();
      for (const delivery of deliveries) {
        const item = settle(delivery);
        if (item) group.settled(item);
      }
      return deliveries.filter(isLost);
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async retry(delivery, delayMs, failure) {
      checkOpen();
      checkRange("delayMs", delayMs, 0, Number.MAX_SAFE_INTEGER);
      const item = settle(delivery);
      if (!item) return !isLost(delivery);
      item.attempt++;
      item.starts = 0;
      item.redelivered = false;
      item.firstFailedAt ??= failure.at;
      group.later(item, delayMs);
      return true;
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async deadLetter(delivery, failure) {
      checkOpen();
      const item = settle(delivery);
      if (!item) return !isLost(delivery);
      setting.bury(item, failure);
      group.settled(item);
      return true;
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async begin({ token }) {
      checkOpen();
      const item = held.get(token)?.item;
      return item && ++item.starts;
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async extend(deliveries) {
      checkOpen();
      const until = clock.monotonic() + leaseMs;
      for (const { token } of deliveries) {
        const lease = held.get(token);
        if (!lease) continue;
        held.delete(token); // to the end: it runs out last now
        held.set(token, { ...lease, until });
      }
      return deliveries.filter(isLost);
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async release(deliveries) {
      checkOpen();
      const items = deliveries.map(settle).filter((item) => item !== undefined);
      for (const item of items) {
        item.starts = 0;
        item.redelivered = false;
      }
      group.back(items);
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async lag() {
      checkOpen();
      const { ready, inFlight, delayed, dead } = group;
      return { ready, inFlight, delayed: delayed + topic.delayed, dead };
    },
    // deno-lint-ignore require-await -- everything happens at once in memory
    async [Symbol.asyncDispose]() {
      if (closed) return;
      closed = true;
      cancelExpiry?.();
      for (const giveUp of [...pulling]) giveUp();
      const items = [...held.values()].map(({ item }) => item);
      held.clear();
      group.back(items);
      setting.onClosed(subscription);
    },
  };
  return subscription;
}
