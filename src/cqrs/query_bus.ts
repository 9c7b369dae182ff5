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

/** A question on its way to its handler. Its parameters are validated. */
export interface QueryCall {
  readonly type: string;
  readonly params: unknown;
  /** The position that the answer must have seen, if one was asked for. */
  readonly after?: string;
}

/** Answers a query. */
export type QueryRun = (query: QueryCall) => Promise<unknown>;

/** Wraps the answering of queries: authorise, log, cache. */
export type QueryMiddleware = (next: QueryRun) => QueryRun;

/** What a query is asked with. */
export interface Asking extends QueryContext {
  /** Called before the handler, with the query's type. */
  readonly ready: () => Promise<void>;
  readonly after?: string | undefined;
}

/** Queries and who answers them. */
export interface QueryBus {
  readonly definitions: ReadonlyMap<string, AnyQuery>;
  /** @throws `HANDLER_ALREADY_REGISTERED` */
  register(definition: AnyQuery, handler: QueryHandler<unknown, unknown>): void;
  use(middleware: QueryMiddleware): void;
  /** Validates the parameters, waits, answers, and validates the answer. @throws `HANDLER_NOT_FOUND` */
  ask(type: string, params: unknown, asking: Asking): Promise<unknown>;
}

/** Creates an empty {@linkcode QueryBus}. */
export function queryBus(): QueryBus {
  const definitions = new Map<string, AnyQuery>();
  const handlers = new Map<string, QueryHandler<unknown, unknown>>();
  const middlewares: QueryMiddleware[] = [];

  return {
    definitions,
    register(definition, handler) {
      if (handlers.has(definition.type)) throw alreadyRegistered("query", definition.type);
      definitions.set(definition.type, definition);
      handlers.set(definition.type, handler);
    },
    use: (middleware) => void middlewares.push(middleware),
    async ask(type, params, asking) {
      const definition = definitions.get(type);
      const handler = handlers.get(type);
      if (!definition || !handler) throw notFound("query", type);
      const valid = await validate(definition.schema, params, `query "${type}"`);
      const answer: QueryRun = async ({ params: wanted }) => {
        await asking.ready();
        const given = await handler(wanted, asking);
        if (!definition.resultSchema) return given;
        return await validate(definition.resultSchema, given, `answer to query "${type}"`);
      };
      const { after } = asking;
      const call = { type, params: valid, ...(after === undefined ? {} : { after }) };
      return await middlewares.reduceRight((next, wrap) => wrap(next), answer)(call);
    },
  };
}
