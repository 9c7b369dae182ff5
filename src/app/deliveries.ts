/**
 * From a delivery to the handler that wants it: decode, route by type, bring to the current schema, skip what was
 * handled before, and commit the handler's effects together with the note that it was handled.
 *
 * @module
 */
import { decodeMessage, type MessageLimits } from "../core/codec.ts";
import { type AnyEvent, upgrade } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Message } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { Clock } from "../core/clock.ts";
import { alreadyRegistered } from "../cqrs/command_bus.ts";
import type { ConsumerOptions } from "../messaging/consumer.ts";
import type { HandlerContext } from "../messaging/context.ts";
import { inherited, type MessageFactory } from "../messaging/factory.ts";
import type { HandleOne } from "../messaging/settle.ts";
import { unitOfWork } from "../messaging/unit_of_work.ts";
import type { Delivery } from "../ports/broker.ts";
import type { Store } from "../ports/store.ts";

/** A handler as it is registered. */
export type MessageHandler = (message: Message, context: HandlerContext) => unknown;

/** One member of a consumer group on one topic, with all its handlers. */
export interface GroupMember {
  readonly topic: string;
  readonly group: string;
  options: ConsumerOptions;
  readonly byType: Map<string, { readonly definition: AnyEvent; readonly handler: MessageHandler }>;
  /** Takes what no other handler takes. */
  anyType: MessageHandler | undefined;
}

/** Registers a handler. A group's handlers on one topic share one consumer, or they would take each other's messages. */
export function addHandler(
  members: Map<string, GroupMember>,
  target: { readonly topic: string; readonly group: string; readonly definition: AnyEvent | undefined },
  options: ConsumerOptions,
  handler: MessageHandler,
): void {
  const { topic, group, definition } = target;
  const name = `${topic}/${group}`;
  const member: GroupMember = members.get(name) ??
    { topic, group, options: {}, byType: new Map(), anyType: undefined };
  const taken = definition ? member.byType.has(definition.type) : member.anyType !== undefined;
  if (taken) {
    throw alreadyRegistered(`group "${group}" on topic "${topic}" and event`, definition?.type ?? "*");
  }
  const conflict = Object.entries(options).find(([option, value]) => {
    const other = member.options[option as keyof ConsumerOptions];
    return other !== undefined && JSON.stringify(other) !== JSON.stringify(value);
  });
  if (conflict) throw otherOptions(topic, group, conflict[0]);
  members.set(name, member);
  member.options = { ...member.options, ...options };
  if (definition) member.byType.set(definition.type, { definition, handler });
  else member.anyType = handler;
}

function otherOptions(topic: string, group: string, option: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use another "${option}" for group "${group}" on topic "${topic}": its handlers share one consumer`,
    { details: { option } },
  );
}

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

/** Handles the deliveries of one group member. */
export function deliveryHandler(parts: DeliveryParts, member: GroupMember): HandleOne {
  const { store, factory, clock, observer, limits } = parts;
  const { topic, group } = member;

  return async (delivery, signal) => {
    const started = clock.monotonic();
    const raw = decodeMessage(delivery.body, limits);
    const route = member.byType.get(raw.type);
    const handler = route?.handler ?? member.anyType;
    if (!handler) return observer({ kind: "ignored", topic, group, type: raw.type, id: raw.id });
    if (
      (delivery.redelivered || delivery.attempt > 1) && (await store.inbox.seen(group, [raw.id])).has(raw.id)
    ) {
      return observer({ kind: "duplicate", topic, group, id: raw.id });
    }
    const message = route ? await upgrade(route.definition, raw) : raw;
    const duplicate = new Error("Handled before");
    try {
      const outcome = await unitOfWork(store, factory, {
        inherit: inherited(message),
        idFor: (index) => uuidv5(`${group}/${message.id}/${index}`),
        before: async (ports) => {
          if (!(await ports.inbox.record(group, message.id))) throw duplicate;
        },
        // Once more at the last moment: opening the transaction may have taken long.
        after: () => Promise.resolve(signal.throwIfAborted()),
      }, async (effects) => {
        await handler(message, { ...effects, ...context(parts, delivery, message, signal) });
        signal.throwIfAborted(); // a lease lost or a timeout: another try may be under way, this one commits nothing
      });
      if (outcome.published) parts.committed();
    } catch (failure) {
      if (failure === duplicate) return observer({ kind: "duplicate", topic, group, id: raw.id });
      throw failure;
    }
    const durationMs = clock.monotonic() - started;
    observer({
      kind: "handled",
      topic,
      group,
      type: raw.type,
      id: raw.id,
      attempt: delivery.attempt,
      durationMs,
    });
  };
}

function context(
  { factory, dispatch, ask }: DeliveryParts,
  { topic, group, attempt }: Delivery,
  message: Message,
  signal: AbortSignal,
): Omit<HandlerContext, "publish" | "append" | "sql"> {
  let commands = 0;
  return {
    topic,
    group,
    attempt,
    signal,
    idempotencyKey: `${group}/${message.id}`,
    ask,
    async dispatch(command, data, options = {}) {
      signal.throwIfAborted(); // a try that was given up sends nothing more
      const id = await uuidv5(`${group}/${message.id}/command/${commands++}`);
      return await dispatch(
        await factory.command(command, data, { ...inherited(message), id, ...options }),
      ) as never;
    },
  };
}
