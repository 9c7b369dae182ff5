/**
 * The application as its parts see it: what can be sent to it, asked of it and known about it.
 *
 * @module
 */
import type { ParsedEvent } from "../core/codec.ts";
import type {
  AnyCommand,
  AnyEvent,
  AnyQuery,
  DataOf,
  EventDefinition,
  NewEvent,
  ResultOf,
  TopicDefinition,
} from "../core/definition.ts";
import type { Abortable } from "../core/clock.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import type { DispatchResult, HandlerContext } from "../messaging/context.ts";
import type { DeadLetterQueue } from "../messaging/dead_letters.ts";
import type { LoopHealth } from "../messaging/loop.ts";
import type { Broker, GroupStatus } from "../ports/broker.ts";
import type { DeadLetterFilter } from "../ports/dead_letters.ts";
import type { AppendResult, ExpectedVersion } from "../ports/event_store.ts";
import type { Store } from "../ports/store.ts";
import type { Aggregate } from "../sourcing/aggregate.ts";
import type { Projection } from "../sourcing/projection.ts";
import type { Projections } from "../sourcing/projections.ts";
import type { Saga, SagaUse } from "../sagas/definition.ts";
import type { Sagas } from "../sagas/operations.ts";
import type { ProcessManager } from "../sagas/process_manager.ts";
import type { BatchHandler, BatchOptions } from "../messaging/batch_options.ts";
import type { ScheduleTimes } from "../messaging/schedule_options.ts";
import type { ConsumerOptions } from "../messaging/consumer_options.ts";
import type { CommandHandler, CommandMiddleware } from "../cqrs/command_bus.ts";
import type { QueryHandler, QueryMiddleware } from "../cqrs/query_bus.ts";

/** An assembled application. */
export interface Millstream extends AsyncDisposable {
  /** The event store and everything that commits with it. */
  readonly store: Store;
  /** The broker. */
  readonly broker: Broker;
  /** What is declared, for gateways and documents. */
  readonly declared: Declared;
  /** How the projections are doing, and operating them. */
  readonly projections: Projections;

  /**
   * Publishes an event to its topic. Resolves when the broker has it.
   *
   * @throws `VALIDATION_FAILED`, `UNSERIALIZABLE`, `PAYLOAD_TOO_LARGE`, `PAYLOAD_TOO_DEEP`: nothing was sent.
   * @throws `PUBLISH_INDETERMINATE`: it may have been sent. Publish again with `options.id` = `details.ids[0]`.
   */
  publish<Data>(
    definition: EventDefinition<Data>,
    data: Data,
    options?: PublishEventOptions,
  ): Promise<{ readonly id: string }>;

  /**
   * Publishes events that came from outside, their data byte for byte, in one call. Events of a declared type are
   * validated; a topic declared with `topic()` takes any type.
   *
   * @throws `UNKNOWN_TOPIC`, `VALIDATION_FAILED`, and as {@linkcode Millstream.publish}.
   */
  publishEvents(
    topic: string,
    events: readonly ParsedEvent[],
    options?: Abortable,
  ): Promise<{ readonly ids: readonly string[] }>;

  /**
   * Appends events to a stream and, after the commit, publishes them. Idempotent by their ids.
   *
   * @param expected What the stream must look like. @default "any"
   * @throws `CONCURRENCY_CONFLICT`, `VALIDATION_FAILED`
   */
  append(stream: string, events: readonly NewEvent[], expected?: ExpectedVersion): Promise<AppendResult>;

  /** Appends events that came from outside to a stream, validated, and publishes them after the commit. Types must be declared. */
  appendEvents(
    stream: string,
    events: readonly ParsedEvent[],
    expected: ExpectedVersion,
  ): Promise<AppendResult>;

  /** Handles every message of a definition (or, for a topic, every message on it) as a member of a consumer group. */
  on<D extends AnyEvent | TopicDefinition>(
    source: D,
    options: OnOptions,
    handler: (message: Message<DataOf<D>>, context: HandlerContext) => unknown,
  ): Millstream;

  /**
   * As {@linkcode Millstream.on}, many messages at once, each with an end of its own: what the handler names in
   * `context.fail` is tried again or given up, the others are done.
   */
  onBatch<D extends AnyEvent | TopicDefinition>(
    source: D,
    options: OnBatchOptions,
    handler: BatchHandler<DataOf<D>>,
  ): Millstream;

  /**
   * Hears every message from the start of this process on, in every process: no group, no retries, and nothing that was
   * published while it was away.
   *
   * @throws `UNSUPPORTED` where the broker keeps no log.
   */
  onEveryInstance<D extends AnyEvent | TopicDefinition>(
    source: D,
    handler: (message: Message<DataOf<D>>) => unknown,
  ): Millstream;

  /**
   * Publishes an event at certain times, each time once, by whichever process runs: the note of it and the message in
   * the outbox commit together. `data` may be a function of the time. Of times that passed while nothing ran, the latest
   * is made up for.
   */
  schedule<Data>(
    name: string,
    times: ScheduleTimes,
    definition: EventDefinition<Data>,
    data: NoInfer<Data> | ((time: Date) => NoInfer<Data>),
  ): Millstream;

  /** Adds an aggregate: its commands load, fold, decide and append. */
  use<State>(aggregate: Aggregate<State>, options: UseAggregateOptions): Millstream;
  /** Adds a projection, run by one process at a time. */
  use(projection: Projection): Millstream;
  /** Adds a saga, driven by any process that has it. */
  use<Data>(saga: Saga<Data>, options?: SagaUse<Data>): Millstream;
  /** Adds a process manager. Each event that it reacts to is handled in the group `process-<name>`. */
  use<State>(manager: ProcessManager<State>): Millstream;

  /** Handles a command that belongs to no aggregate. */
  handle<C extends AnyCommand>(command: C, handler: CommandHandler<DataOf<C>, ResultOf<C>>): Millstream;
  /** As above, with options. */
  handle<C extends AnyCommand>(
    command: C,
    options: HandleOptions,
    handler: CommandHandler<DataOf<C>, ResultOf<C>>,
  ): Millstream;
  /** Answers a query. */
  answer<Q extends AnyQuery>(query: Q, handler: QueryHandler<DataOf<Q>, ResultOf<Q>>): Millstream;
  /** Answers a query from projections: `ask(..., { after })` waits for all of them. */
  answer<Q extends AnyQuery>(
    query: Q,
    options: AnswerOptions,
    handler: QueryHandler<DataOf<Q>, ResultOf<Q>>,
  ): Millstream;
  /** Adds a middleware around all command handlers; the first added is the outermost. */
  middleware(middleware: CommandMiddleware): Millstream;
  /** Adds a middleware around the answering of all queries; the first added is the outermost. */
  queryMiddleware(middleware: QueryMiddleware): Millstream;
  /** Declares topics and events that are published but not handled here. */
  declare(...definitions: readonly (AnyEvent | TopicDefinition)[]): Millstream;

  /**
   * Runs a command here and now. Repeating it with the same `options.id` repeats no effect on an aggregate.
   *
   * @throws `HANDLER_NOT_FOUND`, `VALIDATION_FAILED`, `REFUSED`, `CONCURRENCY_CONFLICT` (after its retries), or what the handler threw.
   */
  dispatch<C extends AnyCommand>(
    command: C,
    data: DataOf<C>,
    options?: MessageOptions,
  ): Promise<DispatchResult<ResultOf<C>>>;

  /** An aggregate as it stands; at version 0 if nothing has happened to it. */
  load<State>(
    aggregate: Aggregate<State>,
    id: string,
  ): Promise<{ readonly state: State; readonly version: number }>;

  /**
   * Sends a command over the broker, to be run once by whichever process serves it. Resolves when the broker has it;
   * what becomes of it is not told, and a command that is refused for good becomes a dead letter. Ids of commands that
   * may be sent twice must be the caller's own.
   *
   * @throws as {@linkcode Millstream.publish}.
   */
  send<C extends AnyCommand>(
    command: C,
    data: DataOf<C>,
    options?: PublishEventOptions,
  ): Promise<{ readonly id: string }>;

  /**
   * Sends a command over the broker and waits for its outcome: what {@linkcode Millstream.dispatch} returns or throws
   * there. Needs a broker with a log.
   *
   * @throws `DEADLINE_EXCEEDED` after `waitMs`: it may still run. Ask again with the same id, which runs it once if it
   * is an aggregate's or was registered with `once`. `UNSUPPORTED` where the broker keeps no log.
   */
  request<C extends AnyCommand>(
    command: C,
    data: DataOf<C>,
    options?: RequestOptions,
  ): Promise<DispatchResult<ResultOf<C>>>;

  /**
   * Also takes a command from the broker, as a member of the group that serves it. Its handler or aggregate must be
   * registered before. At least once: an aggregate repeats no effect, nor does a handler registered with `once`.
   */
  serve(command: AnyCommand, options?: ServeOptions): Millstream;

  /**
   * Asks a query.
   *
   * @throws `HANDLER_NOT_FOUND`, `VALIDATION_FAILED`, `NOT_CAUGHT_UP` if the projections did not reach `after` in time.
   */
  ask<Q extends AnyQuery>(query: Q, params: DataOf<Q>, options?: AskOptions): Promise<ResultOf<Q>>;

  /** The dead letters of all groups, or of those that match. */
  deadLetters(filter?: DeadLetterFilter): DeadLetterQueue;

  /** How every group stands, on every topic or on one. */
  groups(filter?: { readonly topic?: string }): Promise<readonly GroupStatus[]>;

  /**
   * The consumers of this process that match take nothing more until they are resumed. What was begun goes on, what was
   * not goes back to its group. Returns how many consumers match.
   */
  pause(which?: WhichConsumers): number;
  /** Ends {@linkcode Millstream.pause}. */
  resume(which?: WhichConsumers): number;

  /**
   * Starts a saga that is not started by an event. Resolves with whether it was new: the same id with the same data
   * again starts nothing.
   *
   * @throws `IDEMPOTENCY_KEY_REUSED` if the id was started with other data, `VALIDATION_FAILED`, `INVALID_ARGUMENT`.
   */
  startSaga<Data>(
    saga: Saga<Data>,
    id: string,
    data: Data,
    options?: { readonly correlationId?: string },
  ): Promise<boolean>;

  /** Sagas and process managers: where they stand, and what an operator can do. */
  readonly sagas: Sagas;

  /** Prepares the store and starts everything that runs by itself. Resolves when it runs. When `signal` aborts, it closes. */
  start(options?: Abortable): Promise<void>;

  /** How the parts that must run are doing. */
  health(): Promise<Health>;

  /** Stops taking in work, finishes what was started within `graceMs`, hands the rest back, and closes broker and store. Idempotent. */
  close(options?: { readonly graceMs?: number }): Promise<void>;
}

/** Options of {@linkcode Millstream.publish}. */
export interface PublishEventOptions extends MessageOptions, Abortable {
  /** Not handled before this many milliseconds have passed. @default 0 */
  readonly delayMs?: number;
}

/** Options of {@linkcode Millstream.request}. */
export interface RequestOptions extends MessageOptions, Abortable {
  /** How long to wait for the outcome, in milliseconds. @default 30_000 */
  readonly waitMs?: number;
}

/** Options of {@linkcode Millstream.serve}. */
export interface ServeOptions extends ConsumerOptions {
  /** The consumer group. All processes that serve the command share one. @default "handlers" */
  readonly group?: string;
}

/** Options of {@linkcode Millstream.on}. */
export interface OnOptions extends ConsumerOptions {
  /**
   * The consumer group. Each group gets every message once; members of a group share the work. All members must
   * register the same handlers: what a group has no handler for is passed over.
   */
  readonly group: string;
}

/** Options of {@linkcode Millstream.onBatch}. */
export interface OnBatchOptions extends BatchOptions {
  /** The consumer group. */
  readonly group: string;
}

/** Consumers by topic and group; all given fields must match. */
export interface WhichConsumers {
  readonly topic?: string;
  readonly group?: string;
}

/** Options of {@linkcode Millstream.use} for an aggregate. */
export interface UseAggregateOptions {
  /** The aggregate's id, from the data of any of its commands. */
  // deno-lint-ignore no-explicit-any -- the union of all its commands' data
  readonly id: (data: any) => string;
}

/** Options of {@linkcode Millstream.handle}. */
export interface HandleOptions {
  /**
   * Runs a command once per id: its result commits with its effects, and whoever sends the same id again gets it,
   * concurrent callers after waiting for the first one. Another payload under the same id is refused with
   * `IDEMPOTENCY_KEY_REUSED`. Failures are not kept. The result has to survive JSON. @default false
   */
  readonly once?: boolean;
  /** How long the result is kept, in milliseconds. @default 86_400_000 */
  readonly ttlMs?: number;
}

/** Options of {@linkcode Millstream.answer}. */
export interface AnswerOptions {
  /** The projections it reads from. */
  readonly after?: readonly Projection[];
}

/** Options of {@linkcode Millstream.ask}. */
export interface AskOptions extends Abortable {
  /** Wait until the projections have seen this position: a token, or what `dispatch` returned. */
  readonly after?: string | { readonly position?: string };
  /** How long to wait for that, in milliseconds. @default 5_000 */
  readonly waitMs?: number;
}

/** What an application has. */
export interface Declared {
  /** Topics by name; `open` ones take any event type. */
  readonly topics: ReadonlyMap<
    string,
    { readonly open: boolean; readonly events: ReadonlyMap<string, AnyEvent> }
  >;
  readonly events: ReadonlyMap<string, AnyEvent>;
  readonly commands: ReadonlyMap<string, AnyCommand>;
  readonly queries: ReadonlyMap<string, AnyQuery>;
  readonly projections: ReadonlyMap<string, Projection>;
}

/** What {@linkcode Millstream.health} returns. */
export interface Health {
  /** Whether work can be done: everything below is well. */
  readonly ready: boolean;
  readonly store: "ok" | string;
  readonly broker: "ok" | string;
  /** Each loop that must run, and when it last said so. */
  readonly loops: readonly LoopHealth[];
}
