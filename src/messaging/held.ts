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
  /** Ends its handling: with `LEASE_LOST`, `HANDLER_TIMEOUT`, or at shutdown with `ABORTED`. */
  readonly abort: AbortController;
}

/** What a consumer has in hand. */
export interface HeldDeliveries {
  add(delivery: Delivery): HeldDelivery;
  remove(delivery: Delivery): void;
  /** Aborts the delivery's handling with `LEASE_LOST`. False if it is not in hand. */
  lose(delivery: Delivery): boolean;
  /** Aborts the handling of all. */
  abortAll(reason: Error): void;
  all(): Delivery[];
  /** Resolves when one is removed, `ms` have passed or the signal aborts. */
  changed(clock: Clock, ms: number, signal: AbortSignal): Promise<void>;
}

/** An empty set of {@linkcode HeldDeliveries}. */
export function heldDeliveries(): HeldDeliveries {
  const held = new Map<string, HeldDelivery>();
  const waiters = new Set<() => void>();

  return {
    add(delivery) {
      const entry = { delivery, abort: new AbortController() };
      held.set(delivery.token, entry);
      return entry;
    },
    remove(delivery) {
      held.delete(delivery.token);
      for (const wake of [...waiters]) wake();
    },
    lose(delivery) {
      const lost = held.get(delivery.token);
      held.delete(delivery.token);
      lost?.abort.abort(
        new MillstreamError("LEASE_LOST", `Cannot go on with message "${delivery.id}": its lease was lost`),
      );
      return lost !== undefined;
    },
    all: () => Array.from(held.values(), ({ delivery }) => delivery),
    abortAll(reason) {
      for (const { abort } of held.values()) abort.abort(reason);
    },
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
