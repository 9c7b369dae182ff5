/**
 * The relay: moves the outbox to the broker, in order in each lane, one relay at a time, and marks what the broker has
 * confirmed. A crash between the two sends a message again under the same id.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { toError } from "../core/errors.ts";
import type { Random } from "../core/ids.ts";
import type { Observer } from "../core/observer.ts";
import type { Publisher } from "../ports/broker.ts";
import type { Lease } from "../ports/leases.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { Store } from "../ports/store.ts";
import { type Loop, startLoop } from "./loop.ts";
import { sendByLane } from "./relay_lanes.ts";
import { isRefusal } from "./refusal.ts";
import { RELAY_LEASE } from "./republish.ts";

/** What a relay works with. */
export interface RelayParts {
  readonly store: Store;
  readonly publisher: Publisher;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly random: Random;
  /** Tells this process from the others. */
  readonly owner: string;
  /** How long another relay waits for one that is silent, in milliseconds. @default 10_000 */
  readonly leaseMs?: number;
}

/** Sends, and marks what was confirmed. What it throws is not the broker's fault. */
export interface Sending {
  /** Resolves to what the broker failed with, or to `undefined` if it has them all. */
  attempt(topic: string, entries: readonly OutboxEntry[]): Promise<Error | undefined>;
  readonly lease: Lease;
}

const BATCH = 500;
/** How often it looks without being woken. Bounds the latency of what other processes commit. */
const POLL_MS = 100;
/** How often the oldest message's age is looked at, and from when on it is worth a warning. */
const AGE_EVERY_MS = 5_000;
const OLD_MS = 30_000;
/** Failures of a topic in a row, after which its lanes are tried one by one. */
const PATIENCE = 3;

/** Starts the relay. `wake()` it after a commit; it also looks by itself. */
export function startRelay(parts: RelayParts): Loop {
  const { store, publisher, clock, observer, owner, leaseMs = 10_000 } = parts;
  const failing = new Map<string, number>(); // failures in a row by topic
  let lease: Lease | undefined;
  let oldestMs = 0;
  let nextAge = clock.monotonic();

  const loop = startLoop({ name: "relay", clock, observer, periodMs: 5_000 }, async (signal, beat) => {
    await lookAtAge();
    lease = await store.leases.acquire(RELAY_LEASE, owner, leaseMs);
    if (!lease) return POLL_MS * 10; // another process relays; be ready to take over
    for (;;) {
      await lookAtAge();
      const entries = await store.outbox.pending(BATCH);
      if (entries.length === 0) return POLL_MS;
      const failure = await sendAll(entries, lease);
      if (failure) throw failure;
      if (signal.aborted || !(await store.leases.renew(lease, leaseMs))) return 0;
      beat();
    }
  });

  async function lookAtAge(): Promise<void> {
    if (clock.monotonic() < nextAge) return;
    nextAge = clock.monotonic() + AGE_EVERY_MS;
    oldestMs = await store.outbox.oldestAgeMs();
    observer({ kind: "outbox", oldestMs });
  }

  /** All topics at the same time: one that is slow or fails is left where it is, and the others go on. */
  async function sendAll(entries: readonly OutboxEntry[], held: Lease): Promise<Error | undefined> {
    const topics = new Map<string, OutboxEntry[]>();
    for (const entry of entries) {
      const ofTopic = topics.get(entry.topic);
      if (ofTopic) ofTopic.push(entry);
      else topics.set(entry.topic, [entry]);
    }
    const outcomes = await Promise.allSettled([...topics].map(([topic, own]) => sendTopic(topic, own, held)));
    const thrown = outcomes.find((outcome) => outcome.status === "rejected");
    if (thrown) throw thrown.reason; // the lease, or the store
    return outcomes.map((outcome) => outcome.status === "fulfilled" ? outcome.value : undefined).find(
      Boolean,
    );
  }

  /** Publishes a topic's messages in their order. Lanes are looked at only if that fails. */
  async function sendTopic(
    topic: string,
    entries: readonly OutboxEntry[],
    held: Lease,
  ): Promise<Error | undefined> {
    const sending: Sending = { lease: held, attempt: (to, some) => attempt(to, some, held) };
    const failure = await sending.attempt(topic, entries);
    const failures = failure ? (failing.get(topic) ?? 0) + 1 : 0;
    if (failures > 0) failing.set(topic, failures);
    else failing.delete(topic);
    if (!failure || (!isRefusal(failure) && failures < PATIENCE)) return failure;
    return await sendByLane(parts, sending, topic, entries, failures);
  }

  async function attempt(
    topic: string,
    entries: readonly OutboxEntry[],
    held: Lease,
  ): Promise<Error | undefined> {
    try {
      await publisher.publish(topic, entries);
    } catch (failure) {
      return toError(failure);
    }
    await store.outbox.markSent(entries.map(({ position }) => position), held);
    observer({ kind: "published", topic, count: entries.length });
    observer({ kind: "relayed", count: entries.length });
    return undefined;
  }

  return {
    ...loop,
    health() {
      const health = loop.health();
      if (oldestMs < OLD_MS) return health;
      return {
        ...health,
        warning: `the oldest unsent message has waited for ${Math.round(oldestMs / 1_000)} s`,
      };
    },
    async stop() {
      await loop.stop();
      if (lease) await store.leases.release(lease).catch(() => {}); // it runs out by itself
    },
  };
}
