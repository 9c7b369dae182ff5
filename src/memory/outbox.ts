/**
 * The outbox in memory.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { checkName } from "../core/names.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { Lease } from "../ports/leases.ts";
import type { Outbox, OutboxEntry, OutboxMessage } from "../ports/outbox.ts";
import type { Session } from "./session.ts";

/** What became of a message so far. */
export interface OutboxRow {
  readonly message: OutboxMessage;
  readonly position: bigint;
  /** Wall clock. */
  readonly since: number;
  readonly attempts: number;
  /** When its lane may go on (monotonic). */
  readonly retryAt: number;
  readonly redrives: number;
  readonly firstFailedAt?: number;
  /** The last refusal. */
  readonly failure?: Failure;
  readonly dead: boolean;
  /** Wall clock. */
  readonly sentAt?: number;
}

/** Messages that wait to be sent, dead letters, and the last ones that were sent. */
export interface OutboxRows {
  add(session: Session, message: OutboxMessage, now: number): void;
  /** Those that are not sent, dead letters among them, in the order they were added. */
  unsent(): Iterable<OutboxRow>;
  get(position: bigint): OutboxRow | undefined;
  /** Replaces a row that is not sent. */
  set(session: Session, row: OutboxRow): void;
  delete(session: Session, position: bigint): void;
  /** Takes back those that were sent from this moment on. */
  unsend(session: Session, since: number): number;
}

/** Sent messages that are kept. */
const KEPT = 10_000;

/** No messages. */
export function outboxRows(): OutboxRows {
  let rows = new Map<bigint, OutboxRow>(); // by position, ascending; sent ones leave with the commit
  const sent = new Map<bigint, OutboxRow>();
  let last = 0n;

  function set(session: Session, row: OutboxRow): void {
    const before = rows.get(row.position);
    session.undo(() => before ? rows.set(row.position, before) : rows.delete(row.position));
    rows.set(row.position, row);
    if (row.sentAt === undefined) return;
    session.onCommit(() => {
      rows.delete(row.position);
      sent.set(row.position, row);
      const [oldest] = sent.keys();
      if (sent.size > KEPT && oldest !== undefined) sent.delete(oldest);
    });
  }

  return {
    set,
    add(session, { id, type, key, body, topic }, since) {
      const message = key === undefined ? { id, type, body, topic } : { id, type, key, body, topic };
      const position = ++last;
      set(session, { message, position, since, attempts: 0, retryAt: 0, redrives: 0, dead: false });
    },
    *unsent() {
      for (const row of rows.values()) if (row.sentAt === undefined) yield row;
    },
    get: (position) => rows.get(position),
    delete(session, position) {
      const before = rows;
      session.undo(() => rows = before);
      rows = new Map(before);
      rows.delete(position);
    },
    unsend(session, since) {
      const again = [...sent.values()].filter(({ sentAt = 0 }) => sentAt >= since);
      const before = rows;
      session.undo(() => {
        rows = before;
        for (const row of again) sent.set(row.position, row);
      });
      for (const { position } of again) sent.delete(position);
      const unsent = again.map(({ sentAt: _, ...row }): OutboxRow => ({ ...row, attempts: 0, retryAt: 0 }));
      const all = [...rows.values(), ...unsent].sort((a, b) => a.position < b.position ? -1 : 1);
      rows = new Map(all.map((row) => [row.position, row]));
      return again.length;
    },
  };
}

/** What the outbox port works with. */
export interface OutboxSetting {
  readonly rows: OutboxRows;
  readonly clock: Clock;
  /** Throws `LEASE_LOST`. */
  readonly assertLease: (lease: Lease) => void;
}

/** The outbox port on a session. */
export function memoryOutbox(session: Session, { rows, clock, assertLease }: OutboxSetting): Outbox {
  function pending(limit: number): OutboxEntry[] {
    const entries: OutboxEntry[] = [];
    const waiting = new Set<string>();
    for (const { message, position, attempts, retryAt, dead } of rows.unsent()) {
      if (dead) continue;
      const lane = JSON.stringify([message.topic, message.key]);
      if (retryAt > clock.monotonic()) waiting.add(lane);
      if (!waiting.has(lane)) entries.push(Object.freeze({ ...message, position, attempts }));
      if (entries.length >= limit) break;
    }
    return entries;
  }

  return {
    async add(messages) {
      for (const { topic } of messages) checkName("topic", topic);
      await session.run(() => messages.forEach((message) => rows.add(session, message, clock.now())));
    },
    async pending(limit) {
      checkRange("limit", limit, 1, 1_000_000, true);
      return await session.run(() => pending(limit));
    },
    async markSent(positions, lease) {
      await session.run(() => {
        assertLease(lease);
        for (const position of positions) {
          const row = rows.get(position);
          if (row && row.sentAt === undefined) rows.set(session, { ...row, sentAt: clock.now() });
        }
      });
    },
    async markRefused(position, failure, delayMs, lease) {
      await session.run(() => {
        assertLease(lease);
        const row = rows.get(position);
        if (!row || row.dead || row.sentAt !== undefined) return;
        rows.set(session, {
          ...row,
          attempts: row.attempts + 1,
          retryAt: clock.monotonic() + (delayMs ?? 0),
          firstFailedAt: row.firstFailedAt ?? failure.at,
          failure,
          dead: delayMs === undefined,
        });
      });
    },
    oldestAgeMs: () =>
      session.run(() => {
        for (const { since, dead } of rows.unsent()) if (!dead) return Math.max(0, clock.now() - since);
        return 0;
      }),
    unsend: (since) => session.run(() => rows.unsend(session, since)),
  };
}
