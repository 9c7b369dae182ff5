/**
 * From a delivery to the handler that wants it: decode, route by type, bring to the current schema, skip what was
 * handled before, and commit the handler's effects together with the note that it was handled.
 *
 * @module
 */
import { decodeMessage, type MessageLimits } from "../core/codec.ts";
import { upgrade } from "../core/definition.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Message } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { Clock } from "../core/clock.ts";
import type { HandleOne } from "../messaging/consumer.ts";
import type { HandlerContext } from "../messaging/context.ts";
import { type EffectsOnDemand, effectsOnDemand } from "../messaging/effects.ts";
import { inherited, type MessageFactory } from "../messaging/factory.ts";
import type { Attempt } from "../messaging/in_hand.ts";
import type { Store } from "../ports/store.ts";
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

/** Handles the deliveries of one group member. */
export function deliveryHandler(parts: DeliveryParts, member: GroupMember): HandleOne {
  const { store, factory, clock, observer, limits } = parts;
  const { topic, group } = member;
  const again = new Error("Handled before");

  // Written without `async`: what has nothing to wait for is done when this returns, and most has not.
  return (attempt) => {
    const { delivery } = attempt;
    const started = clock.monotonic();
    const raw = decodeMessage(delivery.body, limits);
    const { type, id } = raw;
    const route = member.byType.get(type);
    const handler = route?.handler ?? member.anyType;
    if (!handler) return observer({ kind: "ignored", topic, group, type, id });
    if (delivery.redelivered || delivery.attempt > 1) return unlessSeen();
    return withMessage(handler);

    async function unlessSeen(): Promise<void> {
      const seen = await store.inbox.seen(group, [id]);
      if (seen.has(id)) return observer({ kind: "duplicate", topic, group, id });
      return await withMessage(handler!);
    }

    function withMessage(handler: MessageHandler): void | Promise<void> {
      const message = route ? upgrade(route.definition, raw) : raw;
      return message instanceof Promise ? message.then((one) => run(handler, one)) : run(handler, message);
    }

    function run(handler: MessageHandler, message: Message): void | Promise<void> {
      const effects = effectsOnDemand(store, factory, () => ({
        inherit: inherited(message),
        idFor: (index) => uuidv5(`${group}/${id}/${index}`),
        before: async (ports) => {
          if (!(await ports.inbox.record(group, id))) throw again;
        },
        // Once more at the last moment: opening the transaction may have taken long.
        after: () => Promise.resolve(attempt.throwIfAborted()),
      }));
      let result: unknown;
      try {
        result = handler(message, handlerContext(parts, attempt, message, effects));
      } catch (failure) {
        return finish(effects, Promise.reject(failure));
      }
      return isThenable(result) || effects.hasBegun ? finish(effects, result) : handled();
    }

    async function finish(effects: EffectsOnDemand, result: unknown): Promise<void> {
      try {
        await result;
        attempt.throwIfAborted(); // a lease lost or a timeout: another try may be under way, this one commits nothing
        if ((await effects.commit())?.published) parts.committed();
      } catch (failure) {
        await effects.rollback(failure);
        if (failure === again) return observer({ kind: "duplicate", topic, group, id });
        throw failure;
      }
      handled();
    }

    function handled(): void {
      const durationMs = clock.monotonic() - started;
      observer({ kind: "handled", topic, group, type, id, attempt: delivery.attempt, durationMs });
    }
  };
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === "object" && value !== null &&
    typeof (value as PromiseLike<unknown>).then === "function";
}

function handlerContext(
  { factory, dispatch, ask }: DeliveryParts,
  attempt: Attempt,
  message: Message,
  effects: EffectsOnDemand,
): HandlerContext {
  const { topic, group, attempt: number } = attempt.delivery;
  const idempotencyKey = `${group}/${message.id}`;
  let commands = 0;
  return {
    topic,
    group,
    attempt: number,
    idempotencyKey,
    ask,
    publish: effects.publish,
    send: effects.send,
    append: effects.append,
    get sql() {
      return effects.sql;
    },
    get signal() {
      return attempt.signal;
    },
    async dispatch(command, data, options = {}) {
      attempt.throwIfAborted(); // a try that was given up sends nothing more
      const id = await uuidv5(`${idempotencyKey}/command/${commands++}`);
      const own = { ...inherited(message), id, ...options };
      return await dispatch(await factory.command(command, data, own)) as never;
    },
  };
}
