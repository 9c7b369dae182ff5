/**
 * Who handles what in which group.
 *
 * @module
 */
import type { AnyEvent } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import { alreadyRegistered } from "../cqrs/command_bus.ts";
import type { ConsumerOptions } from "../messaging/consumer_options.ts";
import type { HandlerContext } from "../messaging/context.ts";

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
