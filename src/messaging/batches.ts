/**
 * Handlers of many messages at once, each of which has an end of its own.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { toError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import type { BatchContext, BatchHandler } from "./batch_options.ts";
import type { HandlerContext } from "./context.ts";

interface Waiting {
  readonly message: Message;
  readonly context: HandlerContext;
  resolve(): void;
  reject(failure: Error): void;
}

/**
 * Collects messages until there are `size` or `waitMs` have passed since the first, and then has them handled, at most
 * `concurrency` batches at the same time. Each message resolves or rejects by itself.
 */
export function batches(
  clock: Clock,
  { size, waitMs, concurrency }: {
    readonly size: number;
    readonly waitMs: number;
    readonly concurrency: number;
  },
  handler: BatchHandler<unknown>,
): (message: Message, context: HandlerContext) => Promise<void> {
  let waiting: Waiting[] = [];
  let running = 0;
  let isDue = false;
  let cancel: (() => void) | undefined;

  function next(): void {
    while (running < concurrency && (waiting.length >= size || (isDue && waiting.length > 0))) {
      const batch = waiting.slice(0, size);
      waiting = waiting.slice(size);
      isDue = false;
      cancel?.();
      cancel = undefined;
      running++;
      void handle(batch, handler).then(() => {
        running--;
        next();
      });
    }
    if (waiting.length > 0 && !isDue) {
      cancel ??= clock.after(waitMs, () => {
        cancel = undefined;
        isDue = true;
        next();
      });
    }
  }

  return (message, context) =>
    new Promise((resolve, reject) => {
      waiting.push({ message, context, resolve, reject });
      next();
    });
}

/** Never rejects. */
async function handle(batch: readonly Waiting[], handler: BatchHandler<unknown>): Promise<void> {
  const failures = new Map<Message, Error>();
  const contexts = new Map(batch.map(({ message, context }) => [message, context]));
  const { topic, group } = batch[0]!.context;
  const given: BatchContext = {
    topic,
    group,
    of: (message) => contexts.get(message)!,
    fail: (message, error) => void failures.set(message, toError(error)),
  };
  let all: Error | undefined;
  try {
    await handler(batch.map(({ message }) => message), given);
  } catch (thrown) {
    all = toError(thrown);
  }
  for (const { message, resolve, reject } of batch) {
    const failure = failures.get(message) ?? all;
    if (failure) reject(failure);
    else resolve();
  }
}
