/**
 * Commands: to aggregates, to handlers of one's own, and the way in.
 *
 * @module
 */
import type { AnyCommand } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import { checkText } from "../core/names.ts";
import { validate } from "../core/schema.ts";
import { formatToken } from "../core/token.ts";
import type { CommandContext, CommandHandler } from "../cqrs/command_bus.ts";
import type { DispatchResult } from "../messaging/context.ts";
import { inherited } from "../messaging/factory.ts";
import { unitOfWork, type UnitOptions } from "../messaging/unit_of_work.ts";
import { type Aggregate, streamOf } from "../sourcing/aggregate.ts";
import { handleCommand } from "../sourcing/handle_command.ts";
import type { Millstream, UseAggregateOptions } from "./application.ts";
import type { Parts } from "./parts.ts";

/** Everything about commands. */
export interface Commanding extends Pick<Millstream, "dispatch"> {
  useAggregate(aggregate: Aggregate, options: UseAggregateOptions): void;
  handle(definition: AnyCommand, handler: CommandHandler<never, unknown>): void;
}

/** Creates it. `ask` is what handlers ask queries with. */
export function commanding(parts: Parts, ask: Millstream["ask"]): Commanding {
  const { store, factory, clock, random, registry, commands, committed } = parts;

  function useAggregate(aggregate: Aggregate, { id }: UseAggregateOptions): void {
    for (const definition of aggregate.events.values()) registry.declare(definition);
    for (const definition of aggregate.commands) {
      if (definition.resultSchema) throw resultOfAggregate(aggregate.name, definition.type);
      commands.register(definition, async (command) => {
        const stream = checkText("stream", streamOf(aggregate, id(command.data)));
        const { version, position } = await handleCommand(
          { events: store.events, factory, clock, random },
          aggregate,
          stream,
          command,
        );
        committed();
        return { id: command.id, result: undefined, stream, version, position: formatToken(position) };
      });
    }
  }

  function handle(definition: AnyCommand, handler: CommandHandler<never, unknown>): void {
    commands.register(definition, async (command) => {
      let sent = 0;
      const inherit = inherited(command);
      const unit: UnitOptions = { inherit, idFor: (index) => uuidv5(`${command.id}/${index}`) };
      const outcome = await unitOfWork(store, factory, unit, async (effects) => {
        const context: CommandContext = {
          ...effects,
          idempotencyKey: command.id,
          signal: new AbortController().signal,
          ask,
          async dispatch(next, data, own = {}) {
            const nextId = await uuidv5(`${command.id}/command/${sent++}`);
            return await dispatch(next, data, { ...inherit, id: nextId, ...own });
          },
        };
        const result = await handler(command as Message<never>, context);
        // Before the commit: an answer that is wrong leaves nothing behind.
        if (!definition.resultSchema) return result;
        return await validate(definition.resultSchema, result, `result of command "${command.type}"`);
      });
      if (outcome.published) committed();
      const base = { id: command.id, result: outcome.value };
      return outcome.position === undefined ? base : { ...base, position: formatToken(outcome.position) };
    });
  }

  async function dispatch(
    definition: AnyCommand,
    data: unknown,
    options: MessageOptions = {},
  ): Promise<DispatchResult<never>> {
    const command = await factory.command(definition, data, options);
    return await commands.dispatch(command) as DispatchResult<never>;
  }

  return { useAggregate, handle, dispatch };
}

function resultOfAggregate(name: string, type: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use command "${type}" with aggregate "${name}": it has a result schema, and aggregates answer nothing`,
  );
}
