/**
 * The relay: moves the outbox to the broker, in commit order, one relay at a time, and marks what the broker has
 * confirmed. A crash between the two sends a message again under the same id.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { Observer } from "../core/observer.ts";
import type { Publisher } from "../ports/broker.ts";
import type { Lease } from "../ports/leases.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import type { Store } from "../ports/store.ts";
import { type Loop, startLoop } from "./loop.ts";

/** What a relay works with. */
export interface RelayParts {
  readonly store: Store;
  readonly publisher: Publisher;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Tells this process from the others. */
  readonly owner: string;
}

const LEASE_NAME = "relay";
const LEASE_MS = 10_000;
const BATCH = 500;
/** How often it looks without being woken. Bounds the latency of what other processes commit. */
const POLL_MS = 100;

/** Starts the relay. `wake()` it after a commit; it also looks by itself. */
export function startRelay({ store, publisher, clock, observer, owner }: RelayParts): Loop {
  let lease: Lease | undefined;

  const loop = startLoop({ name: "relay", clock, observer, periodMs: 5_000 }, async (signal, beat) => {
    lease = await store.leases.acquire(LEASE_NAME, owner, LEASE_MS);
    if (!lease) return POLL_MS * 10; // another process relays; be ready to take over
    for (;;) {
      const entries = await store.outbox.pending(BATCH);
      if (entries.length === 0) return POLL_MS;
      const { sent, failure } = await send(entries);
      if (sent.length > 0) {
        await store.outbox.markSent(sent, lease);
        observer({ kind: "relayed", count: sent.length });
      }
      if (failure) throw failure;
      if (signal.aborted || !(await store.leases.renew(lease, LEASE_MS))) return 0;
      beat();
    }
  });

  /**
   * Publishes runs of the same topic one after another, so that the order of the outbox is the order of each topic. A
   * topic that fails is left where it is, and the others go on: what they have is not sent again and again with it.
   */
  async function send(entries: readonly OutboxEntry[]): Promise<{ sent: bigint[]; failure: unknown }> {
    const sent: bigint[] = [];
    const failed = new Map<string, unknown>();
    for (let start = 0; start < entries.length;) {
      const topic = entries[start]!.topic;
      let end = start + 1;
      while (end < entries.length && entries[end]!.topic === topic) end++;
      const run = entries.slice(start, end);
      start = end;
      if (failed.has(topic)) continue;
      try {
        await publisher.publish(topic, run);
      } catch (failure) {
        failed.set(topic, failure);
        continue;
      }
      sent.push(...run.map(({ position }) => position));
      observer({ kind: "published", topic, count: run.length });
    }
    return { sent, failure: failed.values().next().value };
  }

  return {
    ...loop,
    async stop() {
      await loop.stop();
      if (lease) await store.leases.release(lease).catch(() => {}); // it runs out by itself
    },
  };
}
