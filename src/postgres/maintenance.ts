/**
 * Housekeeping: what is no longer needed is deleted bit by bit while the store is in use. There is no loop of its own
 * that could stop unseen; every call on the store may start a round.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { SqlDriver, SqlRow } from "../ports/sql.ts";
import { pruneIdempotencySql } from "./idempotency.ts";

/** How long things are kept. */
export interface Retention {
  /** Messages that every group has finished, in milliseconds. Ids are recognised for as long. @default 7 days */
  readonly messagesMs: number;
  /** Outbox messages that were sent, in milliseconds. @default 1 day */
  readonly outboxMs: number;
  /** What a group has handled, in milliseconds. @default 30 days */
  readonly inboxMs: number;
  /** Sagas that have completed or were compensated, from their start, in milliseconds. @default 30 days */
  readonly sagasMs: number;
}

/** What one round deleted. */
export interface Pruned {
  readonly messages: number;
  readonly outbox: number;
  readonly inbox: number;
  readonly sagas: number;
  readonly idempotencyKeys: number;
}

/** Housekeeping of one store. */
export interface Maintenance {
  /** Starts a round in the background if the last one is long enough ago. Costs nothing otherwise. */
  touch(): void;
  /** One round of bounded work, now. */
  prune(): Promise<Pruned>;
  /** Resolves when no round is under way, and starts none any more. */
  stop(): Promise<void>;
}

/** Between two rounds, if the last one found little to do; otherwise a second. */
const INTERVAL_MS = 60_000;
/** Rows looked at in each table and round, so that a round is short. */
const BATCH = 5_000;

/** Housekeeping that nothing has touched yet. @param schema Quoted. */
export function maintenance(
  driver: SqlDriver,
  schema: string,
  clock: Clock,
  retention: Retention,
): Maintenance {
  let next = clock.monotonic() + INTERVAL_MS * (0.5 + Math.random() / 2);
  let running: Promise<unknown> | undefined;
  let stopped = false;
  let messagesAfter = "0";
  let outboxAfter = "0";
  let inboxAfter = ["", ""];
  let sagasAfter = "";

  function touch(): void {
    if (clock.monotonic() < next || running || stopped) return;
    next = clock.monotonic() + INTERVAL_MS * (0.75 + Math.random() / 2);
    running = round().finally(() => running = undefined);
  }

  async function round(): Promise<void> {
    try {
      const { messages, outbox, inbox } = await prune();
      if (Math.max(messages, outbox, inbox) > BATCH / 2) next = clock.monotonic() + 1_000;
    } catch {
      // Whatever failed is tried again in the next round, and calls that matter report it themselves.
    }
  }

  async function prune(): Promise<Pruned> {
    const [outbox] = await driver.query<Deleted & { next_after: string }>(
      `select * from ${schema}.prune_outbox($1::bigint, $2::int, $3::float8)`,
      [outboxAfter, BATCH, retention.outboxMs],
    );
    outboxAfter = outbox?.next_after ?? "0";
    const [keys] = await driver.query<Deleted>(pruneIdempotencySql(schema), [BATCH]);
    const [messages] = await driver.query<Deleted & { next_after: string }>(
      `select * from ${schema}.prune_messages($1::bigint, $2::int, $3::float8)`,
      [messagesAfter, BATCH, retention.messagesMs],
    );
    messagesAfter = messages?.next_after ?? "0";
    const [inbox] = await driver.query<Deleted & { next_group: string; next_message: string }>(
      `select * from ${schema}.prune_inbox($1::text, $2::text, $3::int, $4::float8)`,
      [...inboxAfter, BATCH, retention.inboxMs],
    );
    inboxAfter = [inbox?.next_group ?? "", inbox?.next_message ?? ""];
    const [sagas] = await driver.query<Deleted & { next_after: string }>(
      `select * from ${schema}.prune_sagas($1::text, $2::int, $3::float8)`,
      [sagasAfter, BATCH, retention.sagasMs],
    );
    sagasAfter = sagas?.next_after ?? "";
    // An embedded Postgres has no autovacuum.
    if (driver.singleSession) {
      for (
        const table of [
          "events",
          "outbox",
          "messages",
          "deliveries",
          "leases",
          "checkpoints",
          "inbox",
          "sagas",
        ]
      ) {
        await driver.query(`vacuum (analyze) ${schema}.${table}`);
      }
    }
    return {
      messages: messages?.deleted ?? 0,
      outbox: outbox?.deleted ?? 0,
      inbox: inbox?.deleted ?? 0,
      sagas: sagas?.deleted ?? 0,
      idempotencyKeys: keys?.deleted ?? 0,
    };
  }

  async function stop(): Promise<void> {
    stopped = true;
    await running;
  }

  return { touch, prune, stop };
}

interface Deleted extends SqlRow {
  readonly deleted: number;
}
