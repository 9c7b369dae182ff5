/**
 * The context of a handler: one small object per message, whose members are made when they are asked for.
 *
 * @module
 */
import { uuidv5 } from "../core/ids.ts";
import type { Message } from "../core/message.ts";
import type { Effects, HandlerContext } from "../messaging/context.ts";
import { begun } from "../messaging/effects.ts";
import { inherited } from "../messaging/factory.ts";
import { signalOf, throwIfAborted } from "../messaging/in_hand.ts";
import type { UnitOptions } from "../messaging/unit_of_work.ts";
import type { Try } from "./deliveries.ts";

/** What a transaction fails with when the message was handled before. */
export const HANDLED_BEFORE: Error = new Error("Handled before");

const TRY = Symbol("try");

/** The members that come from the prototype work when they are taken out, as in `({ data }, { publish }) => ...`. */
type Context = HandlerContext & { [TRY]: Try };

const CONTEXT = {
  get sql(): HandlerContext["sql"] {
    return effectsOf((this as unknown as Context)[TRY]).sql;
  },
  get signal(): AbortSignal {
    return signalOf((this as unknown as Context)[TRY].attempt);
  },
  get publish(): HandlerContext["publish"] {
    const one = (this as unknown as Context)[TRY];
    return async (...call) => await effectsOf(one).publish(...call);
  },
  get send(): HandlerContext["send"] {
    const one = (this as unknown as Context)[TRY];
    return async (...call) => await effectsOf(one).send(...call);
  },
  get append(): HandlerContext["append"] {
    const one = (this as unknown as Context)[TRY];
    return async (...call) => await effectsOf(one).append(...call);
  },
  get dispatch(): HandlerContext["dispatch"] {
    const one = (this as unknown as Context)[TRY];
    return async (...call) => await dispatch(one, ...call) as never;
  },
};

/** The context of one try. */
export function handlerContext(one: Try): HandlerContext {
  const { topic, group, attempt } = one.attempt.delivery;
  const context = Object.create(CONTEXT) as { -readonly [Member in keyof Context]: Context[Member] };
  context.topic = topic;
  context.group = group;
  context.attempt = attempt;
  context.idempotencyKey = `${group}/${one.message.id}`;
  context.ask = one.parts.ask;
  context[TRY] = one;
  return context;
}

function effectsOf(one: Try): Effects {
  return begun(one, one.parts.store, one.parts.factory, () => unitOptions(one));
}

function unitOptions({ attempt, message }: Try): UnitOptions {
  const { group } = attempt.delivery;
  return {
    inherit: inherited(message),
    idFor: (index) => uuidv5(`${group}/${message.id}/${index}`),
    before: async (ports) => {
      if (!(await ports.inbox.record(group, message.id))) throw HANDLED_BEFORE;
    },
    // Once more at the last moment: opening the transaction may have taken long.
    after: () => Promise.resolve(throwIfAborted(attempt)),
  };
}

async function dispatch(
  one: Try,
  ...[command, data, options = {}]: Parameters<HandlerContext["dispatch"]>
): Promise<unknown> {
  const { parts, attempt, message } = one;
  throwIfAborted(attempt); // a try that was given up sends nothing more
  const id = await uuidv5(`${attempt.delivery.group}/${message.id}/command/${one.commands++}`);
  const own = { ...inherited(message as Message), id, ...options };
  return await parts.dispatch(await parts.factory.command(command, data, own));
}
