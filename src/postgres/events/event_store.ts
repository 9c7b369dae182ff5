/**
 * The event store on Postgres: appends in one statement, reads in an order that never changes afterwards.
 *
 * @module
 */
import { MillstreamError } from "../../core/errors.ts";
import type { AppendOptions, AppendResult, EventStore, StreamAppend } from "../../ports/event_store.ts";
import { checkAppends } from "../../ports/event_store_checks.ts";
import { checkSignal, type Scope, type StoreContext } from "../context.ts";
import { type AppendRow, appendStatement, outcomes, type Statement, type Unit, unitOf } from "./append.ts";
import type { AppendQueue } from "./queue.ts";
import { eventReads } from "./read.ts";
import { changeStream, describeStream } from "./streams.ts";
import { conditionalStatement, readMatching } from "./tags.ts";

/**
 * An event store on a session. In a transaction, {@linkcode EventStore.readAll} returns what this process already
 * knew to be final when it last read outside, and does not wait.
 *
 * @param queue For appends outside of transactions.
 */
export function eventStore(context: StoreContext, scope: Scope, queue?: AppendQueue): EventStore {
  const { schema } = context;
  const { session, onAppend } = scope;

  async function append(
    appends: readonly StreamAppend[],
    { condition, signal }: AppendOptions = {},
  ): Promise<readonly AppendResult[]> {
    checkAppends(appends, condition);
    checkSignal(signal);
    const unit = unitOf(appends);
    // These take locks of their own, for which nobody else should wait.
    if (condition || hasTags(unit)) return await send(unit, conditionalStatement(schema, unit, condition));
    if (queue) return await queue.append(unit, signal);
    // Careful, since a failed statement would end the caller's transaction.
    return await send(unit, appendStatement(schema, [unit], { wait: true, careful: true }));
  }

  async function send(unit: Unit, { text, values }: Statement): Promise<readonly AppendResult[]> {
    const [outcome] = outcomes([unit], await session.query<AppendRow>(text, values));
    if (!Array.isArray(outcome)) {
      throw outcome instanceof Error ? outcome : new MillstreamError("INTERNAL", "Cannot append: no answer");
    }
    onAppend();
    return outcome;
  }

  return {
    append,
    ...eventReads(context, scope),
    describeStream: async (stream) => await describeStream(session, schema, stream),
    changeStream: async (stream, change, options = {}) =>
      await changeStream(session, { schema, stream, change, options }),
    readMatching: async (queries, options = {}) => await readMatching(session, { schema, queries, options }),
  };
}

function hasTags({ appends }: Unit): boolean {
  return appends.some(({ events }) => events.some(({ tags }) => tags?.length));
}
