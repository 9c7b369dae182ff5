/**
 * Queries, and reading one's own writes.
 *
 * @module
 */
import type { AnyQuery } from "../core/definition.ts";
import { parseToken } from "../core/token.ts";
import type { QueryHandler } from "../cqrs/query_bus.ts";
import type { Projection } from "../sourcing/projection.ts";
import type { AnswerOptions, AskOptions, Millstream } from "./application.ts";
import type { Parts } from "./parts.ts";

/** Everything about queries. */
export interface Asking extends Pick<Millstream, "ask"> {
  answer(definition: AnyQuery, options: AnswerOptions, handler: QueryHandler<unknown, unknown>): void;
}

/** Creates it. */
export function asking({ store, clock, queries }: Parts): Asking {
  const readFrom = new Map<string, readonly Projection[]>();

  return {
    answer(definition, { after = [] }, handler) {
      queries.register(definition, handler);
      readFrom.set(definition.type, after);
    },
    async ask(definition, params, options: AskOptions = {}) {
      const { after, waitMs = 5_000, signal = new AbortController().signal } = options;
      const token = typeof after === "object" ? after.position : after;
      const position = token === undefined ? undefined : parseToken(token);
      const ready = async (): Promise<void> => {
        const waiting = readFrom.get(definition.type) ?? [];
        if (position !== undefined && waiting.length > 0) {
          const { waitFor } = await import("../sourcing/caught_up.ts");
          await waitFor({ store, clock }, waiting, position, { waitMs, signal });
        }
      };
      return await queries.ask(definition.type, params, {
        sql: store.sql,
        signal,
        ready,
        after: token,
      }) as never;
    },
  };
}
