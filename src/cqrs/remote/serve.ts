/**
 * Taking commands from a broker.
 *
 * @module
 */
import { uuidv5 } from "../../core/ids.ts";
import type { Message } from "../../core/message.ts";
import type { HandlerContext } from "../../messaging/context.ts";
import { inherited, type MessageFactory } from "../../messaging/factory.ts";
import type { Publisher } from "../../ports/broker.ts";
import type { CommandBus } from "../command_bus.ts";
import { commandOf, lastingError, Reply, type ReplyData } from "./wire.ts";

/** What serving needs. */
export interface ServeParts {
  readonly commands: CommandBus;
  readonly broker: Publisher;
  readonly factory: MessageFactory;
}

/**
 * The handler of deliveries of commands: runs each through the command bus and replies where a reply is wanted.
 *
 * A failure that lasts (a refusal, invalid data) is the reply; without anyone who waits for it, the command becomes a
 * dead letter. A failure that passes is retried as with any message. The reply is published before the command is
 * acknowledged, so a crash between the two runs it again: see `HandleOptions.once`.
 */
export function commandServer(
  { commands, broker, factory }: ServeParts,
): (message: Message, context: HandlerContext) => Promise<void> {
  return async (message, { signal }) => {
    const { replyto } = message.headers;
    const reply = async (data: Omit<ReplyData, "request">): Promise<void> => {
      if (replyto === undefined) return;
      const id = await uuidv5(`reply/${message.id}`);
      const encoded = await factory.event(Reply, { request: message.id, ...data }, {
        ...inherited(message),
        id,
      });
      await broker.publish(replyto, [encoded]);
    };
    let data: Omit<ReplyData, "request">;
    try {
      data = { outcome: await commands.dispatch(commandOf(message), signal) };
    } catch (failure) {
      const error = replyto === undefined ? undefined : lastingError(failure);
      if (!error) throw failure;
      data = { error };
    }
    await reply(data);
  };
}
