/**
 * The query bus: each query has exactly one handler, and may wait for the read models it is answered from.
 *
 * @module
 */
import type { AnyQuery } from "../core/definition.ts";
import { validate } from "../core/schema.ts";
import type { Sql } from "../ports/sql.ts";
import { alreadyRegistered, notFound } from "./command_bus.ts";

/** Context of a query handler. */
export interface QueryContext {
  /** SQL outside any transaction. */
  readonly sql: Sql;
  readonly signal: AbortSignal;
}

/** Answers a query. Changes nothing. */
export type QueryHandler<Params, Result> = (
  params: Params,
  context: QueryContext,
) => Result | Promise<Result>;

/** What a query is asked with. */
export interface Asking extends QueryContext {
  /** Called before the handler, with the query's type. */
  readonly ready: () => Promise<void>;
}

/** Queries and who answers them. */
export interface QueryBus {
  readonly definitions: ReadonlyMap<string, AnyQuery>;
  /** @throws `HANDLER_ALREADY_REGISTERED` */
  register(definition: AnyQuery, handler: QueryHandler<unknown, unknown>): void;
  /** Validates the parameters, waits, answers, and validates the answer. @throws `HANDLER_NOT_FOUND` */
  ask(type: string, params: unknown, asking: Asking): Promise<unknown>;
}

/** Creates an empty {@linkcode QueryBus}. */
export function queryBus(): QueryBus {
  const definitions = new Map<string, AnyQuery>();
  const handlers = new Map<string, QueryHandler<unknown, unknown>>();

  return {
    definitions,
    register(definition, handler) {
      if (handlers.has(definition.type)) throw alreadyRegistered("query", definition.type);
      definitions.set(definition.type, definition);
      handlers.set(definition.type, handler);
    },
    async ask(type, params, asking) {
      const definition = definitions.get(type);
      const handler = handlers.get(type);
      if (!definition || !handler) throw notFound("query", type);
      const valid = await validate(definition.schema, params, `query "${type}"`);
      await asking.ready();
      const answer = await handler(valid, asking);
      return definition.resultSchema
        ? await validate(definition.resultSchema, answer, `answer to query "${type}"`)
        : answer;
    },
  };
}
