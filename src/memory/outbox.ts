/**
 * The outbox in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { checkName } from "../core/names.ts";
import type { Outbox, OutboxEntry, OutboxMessage } from "../ports/outbox.ts";
import type { Lease } from "../ports/leases.ts";
import type { Session } from "./session.ts";

/** Messages that wait to be sent. */
export interface OutboxRows {
  add(session: Session, message: OutboxMessage, now: number): void;
  /** In the order they were added, without those that are marked. */
  unsent(): Iterable<Waiting>;
  mark(session: Session, position: bigint): void;
}

interface Waiting {
  readonly entry: OutboxEntry;
  readonly since: number;
  sent: boolean;
}

/** No messages. */
export function outboxRows(): OutboxRows {
  const rows = new Map<bigint, Waiting>();
  let last = 0n;
  return {
    add(session, { id, type, key, body, topic }, now) {
      const message = key === undefined ? { id, type, body, topic } : { id, type, key, body, topic };
      const position = ++last;
      session.undo(() => rows.delete(position));
      rows.set(position, { entry: Object.freeze({ ...message, position }), since: now, sent: false });
    },
    *unsent() {
      for (const waiting of rows.values()) {
        if (!waiting.sent) yield waiting;
      }
    },
    mark(session, position) {
      const waiting = rows.get(position);
      if (!waiting) return;
      waiting.sent = true;
      session.undo(() => waiting.sent = false); // in its old place, which a deleted row would have lost
      session.onCommit(() => rows.delete(position));
    },
  };
}

/** The outbox port on a session. `assertLease` throws `LEASE_LOST`. */
export function memoryOutbox(
  session: Session,
  { rows, clock, assertLease }: { rows: OutboxRows; clock: Clock; assertLease: (lease: Lease) => void },
): Outbox {
  return {
    async add(messages) {
      for (const { topic } of messages) checkName("topic", topic);
      await session.run(() => messages.forEach((message) => rows.add(session, message, clock.now())));
    },
    async pending(limit) {
      checkRange("limit", limit, 1, 1_000_000, true);
      return await session.run(() => {
        const entries: OutboxEntry[] = [];
        for (const { entry } of rows.unsent()) {
          if (entries.push(entry) >= limit) break;
        }
        return entries;
      });
    },
    async markSent(positions, lease) {
      await session.run(() => {
        assertLease(lease);
        for (const position of positions) rows.mark(session, position);
      });
    },
    oldestAgeMs: () =>
      session.run(() => {
        for (const { since } of rows.unsent()) return Math.max(0, clock.now() - since);
        return 0;
      }),
  };
}
