/**
 * The deliveries a consumer has in hand, from pull to settlement.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Delivery } from "../ports/broker.ts";

/** A delivery in hand. */
export interface HeldDelivery {
  readonly delivery: Delivery;
  /** Aborts when the lease is lost. */
  readonly signal: AbortSignal;
}

/** What a consumer has in hand. */
export interface HeldDeliveries {
  add(delivery: Delivery): HeldDelivery;
  remove(delivery: Delivery): void;
  /** Aborts the delivery's signal with `LEASE_LOST`. False if it is not in hand. */
  lose(delivery: Delivery): boolean;
  all(): Delivery[];
  /** Resolves when one is removed, `ms` have passed or the signal aborts. */
  changed(clock: Clock, ms: number, signal: AbortSignal): Promise<void>;
}

/** An empty set of {@linkcode HeldDeliveries}. */
export function heldDeliveries(): HeldDeliveries {
  const held = new Map<string, { entry: HeldDelivery; lease: AbortController }>();
  const waiters = new Set<() => void>();

  return {
    add(delivery) {
      const lease = new AbortController();
      const entry = { delivery, signal: lease.signal };
      held.set(delivery.token, { entry, lease });
      return entry;
    },
    remove(delivery) {
      held.delete(delivery.token);
      for (const wake of [...waiters]) wake();
    },
    lose(delivery) {
      const lost = held.get(delivery.token);
      held.delete(delivery.token);
      lost?.lease.abort(
        new MillstreamError("LEASE_LOST", `Cannot go on with message "${delivery.id}": its lease was lost`),
      );
      return lost !== undefined;
    },
    all: () => Array.from(held.values(), ({ entry }) => entry.delivery),
    changed(clock, ms, signal) {
      return new Promise((resolve) => {
        const done = (): void => {
          cancel();
          waiters.delete(done);
          signal.removeEventListener("abort", done);
          resolve();
        };
        const cancel = clock.after(ms, done);
        waiters.add(done);
        signal.addEventListener("abort", done, { once: true });
        if (signal.aborted) done();
      });
    },
  };
}
