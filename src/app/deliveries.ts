/**
 * From a delivery to the handler that wants it: decode, route by type, bring to the current schema, skip what was
 * handled before, and commit the handler's effects together with the note that it was handled.
 *
 * @module
 */
import { decodeMessage, type MessageLimits } from "../core/codec.ts";
import { upgrade } from "../core/definition.ts";
import type { Message } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { Clock } from "../core/clock.ts";
import type { HandleOne } from "../messaging/consumer.ts";
import type { HandlerContext } from "../messaging/context.ts";
import { commit, rollback, type UnitOnDemand } from "../messaging/effects.ts";
import type { MessageFactory } from "../messaging/factory.ts";
import { type Attempt, throwIfAborted } from "../messaging/in_hand.ts";
import type { Store } from "../ports/store.ts";
import { HANDLED_BEFORE, handlerContext } from "./handler_context.ts";
import type { GroupMember, MessageHandler } from "./members.ts";

/** What handling deliveries needs. */
export interface DeliveryParts {
  readonly store: Store;
  readonly factory: MessageFactory;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly limits: MessageLimits;
  /** Called when effects have been committed to the outbox. */
  readonly committed: () => void;
  readonly dispatch: (message: Message) => Promise<unknown>;
  readonly ask: HandlerContext["ask"];
}

/** One try of one message by its handler. */
export interface Try extends UnitOnDemand {
  readonly parts: DeliveryParts;
  readonly attempt: Attempt;
  readonly message: Message;
  /** Commands that were sent so far. */
  commands: number;
  readonly started: number;
}

/**
 * Handles the deliveries of one group member. Written without `async` and without closures of its own: what has nothing
 * to wait for is done when it returns, and every message passes here.
 */
export function deliveryHandler(parts: DeliveryParts, member: GroupMember): HandleOne {
  return (attempt) => {
    const { delivery } = attempt;
    const started = parts.clock.monotonic();
    const message = decodeMessage(delivery.body, parts.limits);
    const handler = member.byType.get(message.type)?.handler ?? member.anyType;
    if (!handler) {
      const { type, id } = message;
      return parts.observer({ kind: "ignored", topic: member.topic, group: member.group, type, id });
    }
    if (delivery.redelivered || delivery.attempt > 1) {
      return unlessHandled(parts, member, handler, attempt, message, started);
    }
    return upgraded(parts, member, handler, attempt, message, started);
  };
}

async function unlessHandled(
  parts: DeliveryParts,
  member: GroupMember,
  handler: MessageHandler,
  attempt: Attempt,
  message: Message,
  started: number,
): Promise<void> {
  const seen = await parts.store.inbox.seen(member.group, [message.id]);
  if (seen.has(message.id)) return duplicate(parts, attempt, message);
  return await upgraded(parts, member, handler, attempt, message, started);
}

function upgraded(
  parts: DeliveryParts,
  member: GroupMember,
  handler: MessageHandler,
  attempt: Attempt,
  raw: Message,
  started: number,
): void | Promise<void> {
  const route = member.byType.get(raw.type);
  const message = route ? upgrade(route.definition, raw) : raw;
  return message instanceof Promise
    ? message.then((later) => run(handler, newTry(parts, attempt, later, started)))
    : run(handler, newTry(parts, attempt, message, started));
}

function newTry(parts: DeliveryParts, attempt: Attempt, message: Message, started: number): Try {
  return { parts, attempt, message, started, commands: 0, unit: undefined, hasEnded: false };
}

function run(handler: MessageHandler, one: Try): void | Promise<void> {
  let result: unknown;
  try {
    result = handler(one.message, handlerContext(one));
  } catch (failure) {
    if (!one.unit) throw failure;
    result = Promise.reject(failure);
  }
  if (one.unit || isThenable(result)) return finish(one, result);
  one.hasEnded = true;
  handled(one);
}

async function finish(one: Try, result: unknown): Promise<void> {
  try {
    await result;
    throwIfAborted(one.attempt); // a lease lost or a timeout: another try may be under way, this one commits nothing
    if ((await commit(one))?.published) one.parts.committed();
  } catch (failure) {
    await rollback(one, failure);
    if (failure === HANDLED_BEFORE) return duplicate(one.parts, one.attempt, one.message);
    throw failure;
  }
  handled(one);
}

function handled({ parts, attempt: { delivery }, message: { type, id }, started }: Try): void {
  const { topic, group, attempt } = delivery;
  const durationMs = parts.clock.monotonic() - started;
  parts.observer({ kind: "handled", topic, group, type, id, attempt, durationMs });
}

function duplicate(
  { observer }: DeliveryParts,
  { delivery: { topic, group } }: Attempt,
  { id }: Message,
): void {
  observer({ kind: "duplicate", topic, group, id });
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null &&
    typeof (value as PromiseLike<unknown>).then === "function";
}
