/**
 * Millstream: event-driven systems in TypeScript. Queues, pub/sub, event sourcing, CQRS and sagas on Redis Streams and
 * Postgres, and on nothing at all.
 *
 * @example
 * ```ts
 * import { event, millstream } from "millstream";
 * import * as v from "valibot";
 *
 * const OrderPlaced = event("order.placed", v.object({ orderId: v.string(), total: v.number() }));
 * const app = millstream();
 * app.on(OrderPlaced, { group: "billing" }, (placed) => send(placed.data.orderId));
 * await app.start();
 * await app.publish(OrderPlaced, { orderId: "o-1", total: 42 });
 * ```
 *
 * @module
 */

// The application.
export { millstream, type MillstreamOptions } from "./src/app/millstream.ts";
export type {
  AnswerOptions,
  AskOptions,
  Declared,
  HandleOptions,
  Health,
  Millstream,
  OnBatchOptions,
  OnOptions,
  PublishEventOptions,
  RequestOptions,
  ServeOptions,
  UseAggregateOptions,
  WhichConsumers,
} from "./src/app/application.ts";

// What is said: definitions and messages.
export {
  type AnyCommand,
  type AnyEvent,
  type AnyQuery,
  command,
  type CommandDefinition,
  type CommandOptions,
  type DataOf,
  event,
  type EventDefinition,
  type EventOptions,
  type MessageDefinition,
  type NewEvent,
  query,
  type QueryDefinition,
  type ResultOf,
  topic,
  type TopicDefinition,
  type Upcaster,
} from "./src/core/definition.ts";
export type { EncodedMessage, Message, MessageOptions, Recorded } from "./src/core/message.ts";
export {
  decodeMessage,
  encodeMessage,
  type MessageLimits,
  type ParsedEvent,
  parseEvent,
} from "./src/core/codec.ts";
export type { Output, Schema, SchemaIssue, SchemaResult } from "./src/core/schema.ts";

// What can go wrong.
export {
  type ErrorCode,
  type ErrorExtras,
  isMillstreamError,
  MillstreamError,
  refuse,
} from "./src/core/errors.ts";

// Handling messages.
export type { DispatchResult, Effects, HandlerContext } from "./src/messaging/context.ts";
export type { BreakerOptions, ConsumerOptions, Rate, RetryRule } from "./src/messaging/consumer_options.ts";
export type { DeadLetterQueue, PurgeOptions, RedriveOptions, Swept } from "./src/messaging/dead_letters.ts";
export type { DeadLetterAlert, DeadLetterAlertOptions } from "./src/messaging/dead_letter_alert_options.ts";
export type { BatchContext, BatchHandler, BatchOptions } from "./src/messaging/batch_options.ts";
export type { ScheduleTimes } from "./src/messaging/schedule_options.ts";
export type { LoopHealth } from "./src/messaging/loop.ts";
export { republishSince } from "./src/messaging/republish.ts";
export type { RetryPolicy } from "./src/core/backoff.ts";

// Event sourcing.
export {
  type Aggregate,
  aggregate,
  type AggregateParts,
  type Deciders,
  type Decision,
  type Evolvers,
  type SnapshotOptions,
} from "./src/sourcing/aggregate.ts";
export {
  aggregateOf,
  AggregateRoot,
  type AppliedEvent,
  type Repository,
  repository,
  type RootParts,
} from "./src/sourcing/aggregate_root.ts";
export {
  type ProjectedEvent,
  type ProjectedOf,
  type Projection,
  projection,
  type ProjectionContext,
  type ProjectionOptions,
  type ProjectionTarget,
} from "./src/sourcing/projection.ts";
export type { Projections, ProjectionStatus } from "./src/sourcing/projections.ts";

// Commands and queries.
export type {
  CommandContext,
  CommandHandler,
  CommandMiddleware,
  CommandRun,
} from "./src/cqrs/command_bus.ts";
export type {
  QueryCall,
  QueryContext,
  QueryHandler,
  QueryMiddleware,
  QueryRun,
} from "./src/cqrs/query_bus.ts";

// Sagas and process managers.
export {
  type ChildParts,
  type Saga,
  saga,
  type SagaOptions,
  type SagaUse,
  type Step,
  type StepChange,
  type StepContext,
  type StepParts,
  type StepRetry,
  type WaitParts,
} from "./src/sagas/definition.ts";
export {
  type CommandToSend,
  type EventReaction,
  type ProcessEvent,
  type ProcessManager,
  processManager,
  type Reaction,
} from "./src/sagas/process_manager.ts";
export type { Sagas, SagaTry, SagaView } from "./src/sagas/operations.ts";
export type { SagaRunOptions } from "./src/sagas/parts.ts";

// Idempotent operations.
export {
  type OperationClaim,
  runOnce,
  type RunOnceOptions,
  type RunOnceResult,
} from "./src/idempotency/idempotent.ts";

export { type HandledContext, handledOnce, type HandledOnceOptions } from "./src/idempotency/handled_once.ts";

// Ports, for those who bring their own store or broker.
export type {
  Broker,
  BrokerFeatures,
  Delivery,
  GroupLag,
  GroupStatus,
  Publisher,
  PublishOptions,
  PullOptions,
  Scheduled,
  StartFrom,
  SubscribeOptions,
  Subscription,
  TopicLog,
  TopicPage,
  TopicReadOptions,
} from "./src/ports/broker.ts";
export type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "./src/ports/dead_letters.ts";
export type {
  AllPage,
  AllReadOptions,
  AppendResult,
  EventStore,
  EventToAppend,
  ExpectedVersion,
  StoredEvent,
  StreamAppend,
  StreamReadOptions,
} from "./src/ports/event_store.ts";
export type { Store, StorePorts } from "./src/ports/store.ts";
export type { Outbox, OutboxEntry, OutboxMessage } from "./src/ports/outbox.ts";
export type { Inbox } from "./src/ports/inbox.ts";
export type { Checkpoints } from "./src/ports/checkpoints.ts";
export type { Lease, Leases } from "./src/ports/leases.ts";
export type {
  ParkedEvent,
  ParkedFilter,
  ProjectionBuild,
  ProjectionControl,
  ProjectionStore,
} from "./src/ports/projections.ts";
export type { Snapshot, Snapshots } from "./src/ports/snapshots.ts";
export type {
  ClaimedSaga,
  SagaFilter,
  SagaHistoryEntry,
  SagaHolder,
  SagaInstance,
  SagaSave,
  SagaSignals,
  SagaStatus,
  SagaStepRecord,
  SagaStore,
} from "./src/ports/saga_store.ts";
export type { IdempotencyKeys, IdempotencyState } from "./src/ports/idempotency.ts";
export type { Sql, SqlDriver, SqlFragment, SqlQuery, SqlRow, SqlSession, SqlValue } from "./src/ports/sql.ts";
export type {
  RedisArgument,
  RedisCallOptions,
  RedisConnection,
  RedisDriver,
  RedisReply,
  RedisScript,
} from "./src/ports/redis.ts";

// Time, chance and what happens: arguments with good defaults.
export { type Abortable, type Clock, systemClock } from "./src/core/clock.ts";
export { type IdGenerator, type Random, uuidv5, uuidv7Generator } from "./src/core/ids.ts";
export type { Observation, Observer } from "./src/core/observer.ts";
