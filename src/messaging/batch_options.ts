/**
 * What may be chosen about handlers of many messages at once.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Message } from "../core/message.ts";
import type { ConsumerOptions } from "./consumer_options.ts";
import type { HandlerContext } from "./context.ts";

/** Options of a consumer that handles batches. */
export interface BatchOptions extends Omit<ConsumerOptions, "concurrency"> {
  /** Messages in one batch at most. Of one key there is at most one. @default 100 */
  readonly size?: number;
  /** How long the first message waits for others, in milliseconds. It counts as part of its try's time. @default 20 */
  readonly waitMs?: number;
  /** Batches at the same time. @default 1 */
  readonly concurrency?: number;
}

/** What a batch's handler gets beside the messages. */
export interface BatchContext {
  readonly topic: string;
  readonly group: string;
  /** The context of one message: its attempt, its signal, its effects, which commit if this message does not fail. */
  of(message: Message): HandlerContext;
  /** This message failed, and the others did not: it alone is tried again, or becomes a dead letter. */
  fail(message: Message, error: unknown): void;
}

/** Handles a batch. When it rejects, all have failed. */
export type BatchHandler<Data> = (messages: ReadonlyArray<Message<Data>>, context: BatchContext) => unknown;

/** Fills in the defaults and refuses values out of range with `INVALID_ARGUMENT`. */
export function batchOptions(
  { size = 100, waitMs = 20, concurrency = 1 }: BatchOptions,
): { readonly size: number; readonly waitMs: number; readonly concurrency: number } {
  checkRange("size", size, 1, 1_000, true);
  checkRange("waitMs", waitMs, 0, 60_000);
  checkRange("concurrency", concurrency, 1, 10, true);
  return { size, waitMs, concurrency };
}
