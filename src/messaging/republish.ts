/**
 * Healing a broker that lost what it had confirmed.
 *
 * @module
 */
import type { Store } from "../ports/store.ts";

/** The lease that makes one relay the only one. */
export const RELAY_LEASE = "relay";

/**
 * Sends again what went through the outbox to the broker at or after a moment, for a broker that came back without it:
 * a Redis without persistence, a failover to a replica that was behind. All go out under the ids they had, in the order
 * they had; consumers that have handled some of them recognise these by their inbox.
 *
 * Call it when the broker is back. Reaches as far as sent messages are kept: a day on Postgres by default
 * (`outboxRetentionMs`), the last 10,000 in memory. What was published without the outbox cannot be sent again.
 *
 * @param since In milliseconds since 1970 by the store's clock: some time before the loss. Too early only costs repeats.
 * @returns How many messages will be sent again.
 */
export async function republishSince(store: Store, since: number): Promise<number> {
  return await store.transaction(async ({ leases, outbox }) => {
    // A relay that sent something just before the loss must not note now that it was sent.
    await leases.revoke(RELAY_LEASE);
    return await outbox.unsend(since);
  });
}
