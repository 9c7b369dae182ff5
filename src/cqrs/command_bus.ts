/**
 * The command bus: each command has exactly one handler; middleware is composed around it.
 *
 * @module
 */
import { type AnyCommand, upgrade } from "../core/definition.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import type { DispatchResult, HandlerContext } from "../messaging/context.ts";

/** Context of a command handler: its effects commit together when it resolves. */
export type CommandContext = Omit<HandlerContext, "attempt" | "topic" | "group">;

/** Handles a command that belongs to no aggregate. What it returns is the command's result. */
export type CommandHandler<Data, Result> = (
  command: Message<Data>,
  context: CommandContext,
) => Result | Promise<Result>;

/** Runs a command to its result. When `signal` aborts, nobody waits for it any more. */
export type CommandRun = (command: Message, signal: AbortSignal) => Promise<DispatchResult>;

/**
 * Wraps the running of commands: authorise, log, measure, repeat.
 *
 * @example
 * ```ts
 * app.middleware((next) => async (command, signal) => {
 *   if (!command.userId) throw refuse("NOT_SIGNED_IN");
 *   return await next(command, signal);
 * });
 * ```
 */
export type CommandMiddleware = (next: CommandRun) => CommandRun;

/** Commands and who handles them. */
export interface CommandBus {
  readonly definitions: ReadonlyMap<string, AnyCommand>;
  /** @throws `HANDLER_ALREADY_REGISTERED` */
  register(definition: AnyCommand, run: CommandRun): void;
  use(middleware: CommandMiddleware): void;
  /** Brings the command's data to its current version, validates it, and runs it. @throws `HANDLER_NOT_FOUND` */
  dispatch(command: Message, signal?: AbortSignal): Promise<DispatchResult>;
}

/** Nobody has stopped waiting. */
const NEVER = new AbortController().signal;

/** Creates an empty {@linkcode CommandBus}. */
export function commandBus(): CommandBus {
  const definitions = new Map<string, AnyCommand>();
  const runs = new Map<string, CommandRun>();
  const middlewares: CommandMiddleware[] = [];
  const composed = new Map<string, CommandRun>(); // emptied when something is added

  return {
    definitions,
    register(definition, run) {
      if (runs.has(definition.type)) throw alreadyRegistered("command", definition.type);
      definitions.set(definition.type, definition);
      runs.set(definition.type, run);
    },
    use(middleware) {
      middlewares.push(middleware);
      composed.clear();
    },
    async dispatch(command, signal = NEVER) {
      const definition = definitions.get(command.type);
      const run = runs.get(command.type);
      if (!definition || !run) throw notFound("command", command.type);
      const current = command.schemaVersion === definition.version
        ? command
        : await upgrade(definition, command);
      let whole = composed.get(command.type);
      if (!whole) {
        whole = middlewares.reduceRight((next, wrap) => wrap(next), run);
        composed.set(command.type, whole);
      }
      return await whole(current, signal);
    },
  };
}

/** The error for a second handler. */
export function alreadyRegistered(kind: string, type: string): MillstreamError {
  return new MillstreamError(
    "HANDLER_ALREADY_REGISTERED",
    `Cannot register a second handler for ${kind} ${describe(type)}`,
    {
      details: { type },
    },
  );
}

/** The error for a missing handler. */
export function notFound(kind: string, type: string): MillstreamError {
  return new MillstreamError(
    "HANDLER_NOT_FOUND",
    `Cannot handle ${kind} ${describe(type)}: no handler is registered for it`,
    {
      details: { type },
    },
  );
}
