/**
 * Commands: to aggregates, to handlers of one's own, and the way in.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { AnyCommand } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import { checkText } from "../core/names.ts";
import { validate } from "../core/schema.ts";
import { formatToken } from "../core/token.ts";
import type { CommandContext, CommandHandler } from "../cqrs/command_bus.ts";
import type { DispatchResult } from "../messaging/context.ts";
import { effectsOnDemand } from "../messaging/effects.ts";
import { inherited } from "../messaging/factory.ts";
import type { UnitOptions } from "../messaging/unit_of_work.ts";
import { type Aggregate, streamOf } from "../sourcing/aggregate.ts";
import type { StorePorts } from "../ports/store.ts";
import type { HandleOptions, Millstream, UseAggregateOptions } from "./application.ts";
import type { Parts } from "./parts.ts";

/** Everything about commands. */
export interface Commanding extends Pick<Millstream, "dispatch" | "load"> {
  useAggregate(aggregate: Aggregate, options: UseAggregateOptions): void;
  handle(
    definition: AnyCommand,
    options: HandleOptions,
    handler: CommandHandler<never, unknown>,
  ): void;
}

/** Loaded on demand: not all applications have aggregates. */
const sourcing = (): Promise<typeof import("../sourcing/handle_command.ts")> =>
  import("../sourcing/handle_command.ts");

/** Creates it. `ask` is what handlers ask queries with. */
export function commanding(parts: Parts, ask: Millstream["ask"]): Commanding {
  const { store, factory, clock, random, observer, registry, commands, committed } = parts;

  const loading = { events: store.events, snapshots: store.snapshots, observer };

  function useAggregate(aggregate: Aggregate, { id }: UseAggregateOptions): void {
    for (const definition of aggregate.events.values()) registry.declare(definition);
    for (const definition of aggregate.commands) {
      if (definition.resultSchema) throw resultOfAggregate(aggregate.name, definition.type);
      commands.register(definition, async (command) => {
        const stream = checkText("stream", streamOf(aggregate, id(command.data)));
        const { handleCommand } = await sourcing();
        const { version, position } = await handleCommand(
          { ...loading, factory, clock, random },
          aggregate,
          stream,
          command,
        );
        committed();
        return { id: command.id, result: undefined, stream, version, position: formatToken(position) };
      });
    }
  }

  function handle(
    definition: AnyCommand,
    { once = false, ttlMs }: HandleOptions,
    handler: CommandHandler<never, unknown>,
  ): void {
    if (ttlMs !== undefined) checkRange("ttlMs", ttlMs, 1, Number.MAX_SAFE_INTEGER);
    const run: HandleRun = (command, signal, after) =>
      runHandler(definition, handler, command, signal, after);
    commands.register(definition, once ? (...call) => runKeyed(run, ttlMs, ...call) : run);
  }

  /** Runs a handler; its effects commit together, with what `after` writes. */
  async function runHandler(
    definition: AnyCommand,
    handler: CommandHandler<never, unknown>,
    command: Message,
    signal: AbortSignal,
    after?: (ports: StorePorts, result: DispatchResult) => Promise<void>,
  ): Promise<DispatchResult> {
    let sent = 0;
    let result: unknown;
    const inherit = inherited(command);
    const unit: UnitOptions = {
      inherit,
      idFor: (index) => uuidv5(`${command.id}/${index}`),
      ...(after ? { always: true, after: (ports, position) => after(ports, outcomeOf(position)) } : {}),
    };
    const outcomeOf = (position: bigint | undefined): DispatchResult => {
      const base = { id: command.id, result };
      return position === undefined ? base : { ...base, position: formatToken(position) };
    };
    const effects = effectsOnDemand(store, factory, () => unit);
    if (after) effects.begin();
    const context: CommandContext = {
      publish: effects.publish,
      send: effects.send,
      append: effects.append,
      get sql() {
        return effects.sql;
      },
      idempotencyKey: command.id,
      signal,
      ask,
      async dispatch(next, data, own = {}) {
        const nextId = await uuidv5(`${command.id}/command/${sent++}`);
        return await dispatch(next, data, { ...inherit, id: nextId, ...own });
      },
    };
    try {
      result = await handler(command as Message<never>, context);
      // Before the commit: an answer that is wrong leaves nothing behind.
      if (definition.resultSchema) {
        result = await validate(definition.resultSchema, result, `result of command "${command.type}"`);
      }
    } catch (failure) {
      await effects.rollback(failure);
      throw failure;
    }
    const outcome = await effects.commit();
    if (outcome?.published) committed();
    return outcomeOf(outcome?.position);
  }

  /** Runs a command unless its id ran before. */
  async function runKeyed(
    run: HandleRun,
    ttlMs: number | undefined,
    command: Message,
    signal: AbortSignal,
  ): Promise<DispatchResult> {
    const { onceById } = await import("../cqrs/once_by_id.ts"); // on demand: most handlers do without
    return await onceById({ keys: store.idempotency, clock, ttlMs }, command, signal, run);
  }

  async function dispatch(
    definition: AnyCommand,
    data: unknown,
    options: MessageOptions = {},
  ): Promise<DispatchResult<never>> {
    const command = await factory.command(definition, data, options);
    return await commands.dispatch(command) as DispatchResult<never>;
  }

  return {
    useAggregate,
    handle,
    dispatch,
    async load(aggregate, id) {
      const stream = checkText("stream", streamOf(aggregate as Aggregate<never>, id));
      return await (await sourcing()).load(loading, aggregate, stream);
    },
  };
}

type HandleRun = (
  command: Message,
  signal: AbortSignal,
  after?: (ports: StorePorts, result: DispatchResult) => Promise<void>,
) => Promise<DispatchResult>;

function resultOfAggregate(name: string, type: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use command "${type}" with aggregate "${name}": it has a result schema, and aggregates answer nothing`,
  );
}
