/**
 * The deduplicating consumer: a handler that runs once per message, for those whose store keeps no inbox.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { fingerprint, type Json } from "../core/fingerprint.ts";
import type { Message } from "../core/message.ts";
import type { IdempotencyKeys } from "../ports/idempotency.ts";
import { runOnce } from "./idempotent.ts";

/** Options of {@linkcode handledOnce}. */
export interface HandledOnceOptions {
  /** For how long a message is recognised, in milliseconds. @default 604_800_000, a week */
  readonly ttlMs?: number;
  /** How long a consumer that died blocks a message, in milliseconds. @default 30_000 */
  readonly leaseMs?: number;
  readonly clock?: Clock;
}

/** What it needs of the handler's context. */
export interface HandledContext {
  readonly group: string;
  readonly signal: AbortSignal;
}

/**
 * Wraps a handler so that it runs once per message and group. A message that is being handled elsewhere is refused with
 * `IDEMPOTENCY_IN_PROGRESS` and comes again; one that comes again with other data is refused for good.
 *
 * A crash between the handler's last effect and the note that it ended runs it again: hand `context.idempotencyKey` to
 * other systems, or commit through `context.sql`, which needs none of this.
 *
 * @example
 * ```ts ignore
 * const keys = redisIdempotency({ driver: ioredisDriver({ url }) });
 * app.on(OrderPlaced, { group: "mail" }, handledOnce(keys, async (placed) => await send(placed.data)));
 * ```
 */
export function handledOnce<Data, Context extends HandledContext>(
  keys: IdempotencyKeys,
  handler: (message: Message<Data>, context: Context) => unknown,
  options: HandledOnceOptions = {},
): (message: Message<Data>, context: Context) => Promise<void> {
  const { ttlMs = 604_800_000, ...others } = options;
  return async (message, context) => {
    const key = `handled/${context.group}/${message.source}/${message.id}`;
    const print = await fingerprint(message.data as Json);
    await runOnce(keys, { key, fingerprint: print, ttlMs, ...others }, async (lost) => {
      const signal = AbortSignal.any([context.signal, lost]);
      await handler(message, Object.create(context, { signal: { value: signal } }) as Context);
      return "null";
    });
  };
}
