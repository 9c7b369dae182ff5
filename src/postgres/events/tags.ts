/**
 * Decisions that cross streams: appends under a condition on tags, and the reads they are based on.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import type { AllPage, AppendCondition, EventQuery, MatchingReadOptions } from "../../ports/event_store.ts";
import { checkPosition, checkQueries, MAX_VERSION } from "../../ports/event_store_checks.ts";
import type { SqlSession } from "../../ports/sql.ts";
import { checkSignal } from "../context.ts";
import { manyValues, PARAMETERS, placeholders, type Statement, type Unit } from "./append.ts";
import { EVENT_COLUMNS, type EventRow, storedEvent } from "./read.ts";

/** Calls the function `append_if`. */
export function conditionalStatement(
  schema: string,
  unit: Unit,
  condition: AppendCondition | undefined,
): Statement {
  return {
    text: `select ${schema}.append_if($1::jsonb, $2::bigint, ${placeholders(3, PARAMETERS)}) as reply`,
    values: [
      condition ? conditionText(condition.failIfMatches) : null,
      condition?.after ?? 0n,
      ...manyValues([unit]),
    ],
  };
}

/** Reads what matches, by the function `read_matching`. */
export async function readMatching(
  session: SqlSession,
  { schema, queries, options }: {
    readonly schema: string;
    readonly queries: readonly EventQuery[];
    readonly options: MatchingReadOptions;
  },
): Promise<AllPage> {
  const { after = 0n, limit = 10_000, signal } = options;
  checkQueries(queries);
  checkPosition("after", after);
  checkRange("limit", limit, 1, MAX_VERSION, true);
  checkSignal(signal);
  const text = `select ${EVENT_COLUMNS} from ${schema}.read_matching($1::jsonb, $2::bigint, $3::int) e`;
  const rows = await session.query<EventRow>(text, [conditionText(queries), after, limit]);
  const events = rows.map(storedEvent);
  return { events, position: events.at(-1)?.position ?? after };
}

function conditionText(queries: readonly EventQuery[]): string {
  return JSON.stringify(queries.map(({ tags, types }) => ({ tags, types })));
}
