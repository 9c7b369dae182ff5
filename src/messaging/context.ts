/**
 * What a handler gets beside its message.
 *
 * @module
 */
import type {
  AnyCommand,
  AnyQuery,
  DataOf,
  EventDefinition,
  NewEvent,
  ResultOf,
} from "../core/definition.ts";
import type { MessageOptions } from "../core/message.ts";
import type { AppendResult, ExpectedVersion } from "../ports/event_store.ts";
import type { Sql } from "../ports/sql.ts";

/**
 * Effects that commit together, once: what is published, appended and written through `sql` here is committed in one
 * transaction with the note that the message was handled, after the handler resolved. If it rejects, nothing is.
 */
export interface Effects {
  /** Sends an event after the commit, through the outbox. */
  publish<Data>(definition: EventDefinition<Data>, data: Data, options?: MessageOptions): Promise<void>;
  /** Sends a command after the commit, through the outbox, to be run by whichever process serves it. */
  send<C extends AnyCommand>(command: C, data: DataOf<C>, options?: MessageOptions): Promise<void>;
  /** Appends to a stream and, after the commit, publishes. */
  append(stream: string, events: readonly NewEvent[], expected?: ExpectedVersion): Promise<AppendResult>;
  /** SQL in the transaction. The transaction begins with its first use. */
  readonly sql: Sql;
}

/** Context of an event handler. */
export interface HandlerContext extends Effects {
  /** 1 for the first try. */
  readonly attempt: number;
  readonly topic: string;
  readonly group: string;
  /** Stable per message and group: hand it to other systems so that they can recognise a repeated call. */
  readonly idempotencyKey: string;
  /** Aborts when the lease is lost, the timeout passed or the process shuts down for good. Stop working then. */
  readonly signal: AbortSignal;
  /**
   * Runs a command here and now, on its own commit. Its id derives from this message, so that a repeated handler
   * repeats no effect on an aggregate. On a store with one session (memory, PGlite) call it before `sql` and `append`,
   * which begin this handler's own transaction.
   */
  dispatch<C extends AnyCommand>(
    command: C,
    data: DataOf<C>,
    options?: MessageOptions,
  ): Promise<DispatchResult<ResultOf<C>>>;
  /** Asks a query. */
  ask<Q extends AnyQuery>(query: Q, params: DataOf<Q>): Promise<ResultOf<Q>>;
}

/** What became of a command. */
export interface DispatchResult<Result = unknown> {
  /** The command's id. */
  readonly id: string;
  /** What the handler answered. */
  readonly result: Result;
  /** Where the store stood after it. Give it to a query as `after`. Absent if nothing was appended. */
  readonly position?: string;
  /** The stream it appended to, if it is an aggregate's, and its version after it. */
  readonly stream?: string;
  readonly version?: number;
}
