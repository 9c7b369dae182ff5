/**
 * Ephemeral broadcast: every instance gets every message from the moment it listens, without a group, a lease or an
 * acknowledgement. For caches to drop, live views and signals; what must not be lost belongs to a group.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { decodeMessage, type MessageLimits } from "../core/codec.ts";
import { type AnyEvent, upgrade } from "../core/definition.ts";
import { toError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { TopicLog } from "../ports/broker.ts";
import { type Loop, startLoop } from "./loop.ts";

/** Who listens to what. */
export interface Listener {
  readonly topic: string;
  /** Absent for all messages of the topic. */
  readonly definition: AnyEvent | undefined;
  readonly handler: (message: Message) => unknown;
}

/** What listening works with. */
export interface BroadcastParts {
  readonly log: TopicLog;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly limits: MessageLimits;
}

const PAGE = 100;
const WAIT_MS = 2_000;

/**
 * Listens until stopped. One message at a time, in the order of the topic; a handler that fails is observed and not asked
 * again. Resolves when the place to begin is known: what is published afterwards is heard.
 */
export async function startBroadcast(parts: BroadcastParts, listener: Listener): Promise<Loop> {
  const { log, clock, observer } = parts;
  const { topic } = listener;
  const name = `broadcast ${topic}`;
  let { next } = await log.read(topic, "now", { limit: 1, waitMs: 0 });

  return startLoop({ name, clock, observer, periodMs: WAIT_MS * 2 }, async (signal, beat) => {
    const page = await log.read(topic, next, { limit: PAGE, waitMs: WAIT_MS, signal });
    if (page.gap) {
      observer({ kind: "data-loss-suspected", what: name, detail: "messages are no longer kept" });
    }
    for (const { body } of page.entries) {
      if (signal.aborted) return 0;
      try {
        await hear(parts, listener, body);
      } catch (thrown) {
        observer({ kind: "loop-failed", loop: name, error: toError(thrown) });
      }
      beat();
    }
    next = page.next;
    return 0;
  });
}

async function hear(
  { limits }: BroadcastParts,
  { definition, handler }: Listener,
  body: string,
): Promise<void> {
  const message = decodeMessage(body, limits);
  if (!definition) await handler(message);
  else if (definition.type === message.type) await handler(await upgrade(definition, message));
}
