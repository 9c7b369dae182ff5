/**
 * Sends settlements in batches: one call of a kind under way at a time, and everything that came meanwhile in the next.
 *
 * @module
 */
import { toError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";
import type { Delivery, Subscription } from "../ports/broker.ts";
import type { Failure } from "../ports/dead_letters.ts";

/** What becomes of a delivery. */
export type Settlement =
  | { readonly kind: "ack" | "release"; readonly delivery: Delivery }
  | {
    readonly kind: "retry";
    readonly delivery: Delivery;
    readonly delayMs: number;
    readonly failure: Failure;
  }
  | { readonly kind: "dead"; readonly delivery: Delivery; readonly failure: Failure };

/** A queue of {@linkcode Settlement}s. */
export interface Settlements {
  add(settlement: Settlement): void;
  /** Resolves when all have been sent. */
  flush(): Promise<void>;
}

/**
 * An empty queue.
 *
 * @param onSettled Called for each delivery when the broker has answered, or did not: then it stays with its lease and
 * comes again.
 */
export function settlements(
  observer: Observer,
  subscription: () => Subscription,
  onSettled: (delivery: Delivery) => void,
): Settlements {
  let acks: Delivery[] = [];
  let others: Settlement[] = [];
  let sending: Promise<void> | undefined;

  function add(settlement: Settlement): void {
    if (settlement.kind === "ack") acks.push(settlement.delivery);
    else others.push(settlement);
    // A promise job later, so that handlers ending together are acknowledged together.
    sending ??= Promise.resolve().then(sendAll);
  }

  async function sendAll(): Promise<void> {
    while (acks.length > 0 || others.length > 0) {
      const [acked, rest] = [acks, others];
      [acks, others] = [[], []];
      if (acked.length > 0 && rest.length === 0) await report(acked, subscription().ack(acked));
      else await Promise.all(calls(acked, rest));
    }
    sending = undefined; // in the same job as the last look: what comes later begins anew
  }

  function calls(acked: readonly Delivery[], rest: readonly Settlement[]): Array<Promise<void>> {
    const to = subscription();
    const all: Array<Promise<void>> = [];
    if (acked.length > 0) all.push(report(acked, to.ack(acked)));
    const released: Delivery[] = [];
    for (const settlement of rest) {
      const { delivery } = settlement;
      if (settlement.kind === "retry") {
        all.push(reportOne(delivery, to.retry(delivery, settlement.delayMs, settlement.failure)));
      } else if (settlement.kind === "dead") {
        all.push(reportOne(delivery, to.deadLetter(delivery, settlement.failure)));
      } else released.push(delivery);
    }
    if (released.length > 0) all.push(report(released, to.release(released).then(() => [])));
    return all;
  }

  function reportOne(delivery: Delivery, call: Promise<boolean>): Promise<void> {
    return report([delivery], call.then((kept) => kept ? [] : [delivery]));
  }

  /** Says which leases were lost. What could not be settled stays with its lease and comes again: at least once. */
  async function report(deliveries: readonly Delivery[], call: Promise<readonly Delivery[]>): Promise<void> {
    try {
      const lost = await call;
      for (const { topic, group, id } of lost) {
        observer({ kind: "lease-lost", what: `${topic}/${group}`, id });
      }
    } catch (thrown) {
      const { topic, group } = subscription();
      observer({ kind: "loop-failed", loop: `settle ${topic}/${group}`, error: toError(thrown) });
    }
    for (const delivery of deliveries) onSettled(delivery);
  }

  return {
    add,
    async flush() {
      while (sending) await sending;
    },
  };
}
