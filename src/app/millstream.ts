/**
 * The assembly: puts store, broker and patterns together. Each member is made by the file that tells its story.
 *
 * @module
 */
import { type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import type { MessageLimits } from "../core/codec.ts";
import type { AnyCommand, AnyQuery } from "../core/definition.ts";
import type { Message } from "../core/message.ts";
import { MillstreamError } from "../core/errors.ts";
import { type Random, uuidv7Generator } from "../core/ids.ts";
import { later } from "../core/later.ts";
import { checkText } from "../core/names.ts";
import { type Observer, safeObserver } from "../core/observer.ts";
import { commandBus } from "../cqrs/command_bus.ts";
import { queryBus } from "../cqrs/query_bus.ts";
import { checkAlerts, type DeadLetterAlertOptions } from "../messaging/dead_letter_alert_options.ts";
import { type BatchHandler, batchOptions } from "../messaging/batch_options.ts";
import type { HandlerContext } from "../messaging/context.ts";
import type { Listener } from "../messaging/broadcasts.ts";
import { schedule } from "../messaging/schedule_options.ts";
import { messageFactory } from "../messaging/factory.ts";
import type { Broker } from "../ports/broker.ts";
import type { Store } from "../ports/store.ts";
import type { Saga, SagaUse } from "../sagas/definition.ts";
import type { SagaRunOptions } from "../sagas/parts.ts";
import type { ProcessManager } from "../sagas/process_manager.ts";
import type { Aggregate } from "../sourcing/aggregate.ts";
import { withInline } from "../sourcing/inline.ts";
import type { Projection } from "../sourcing/projection.ts";
import type { AnswerOptions, HandleOptions, Millstream, UseAggregateOptions } from "./application.ts";
import { asking } from "./asking.ts";
import { commanding } from "./commanding.ts";
import type { MessageHandler } from "./members.ts";
import { embeddedStore } from "./embedded.ts";
import type { Parts } from "./parts.ts";
import { createRegistry } from "./registry.ts";
import { remote } from "./remote.ts";
import { running } from "./running.ts";
import { saving } from "./sagas.ts";
import { sending } from "./sending.ts";

/** Options of {@linkcode millstream}. All have defaults; `{}` is the embedded application in memory. */
export interface MillstreamOptions {
  /** Where events, inbox, outbox, checkpoints and sagas are kept. Closed with the application. @default in memory */
  readonly store?: Store;
  /** What carries messages. Closed with the application. @default the store's own broker */
  readonly broker?: Broker;
  /** CloudEvents `source` of what is created here. @default "/millstream" */
  readonly source?: string;
  /** Bounds of one message. */
  readonly limits?: MessageLimits;
  /** Retry policy of consumers that have none of their own. */
  readonly retry?: RetryPolicy;
  /** How this process drives sagas. */
  readonly sagas?: SagaRunOptions;
  /** Says when dead letters pile up or grow old. @default never */
  readonly deadLetterAlerts?: DeadLetterAlertOptions;
  /** Told about everything that happens. */
  readonly observer?: Observer;
  readonly clock?: Clock;
  readonly random?: Random;
}

/**
 * Creates an application.
 *
 * @example
 * ```ts
 * const app = millstream({ broker: redis({ url }), store: postgres({ url }) });
 * app.on(OrderPlaced, { group: "billing" }, async (placed, ctx) => {
 *   await ctx.publish(InvoiceRaised, { orderId: placed.data.orderId });
 * });
 * await app.start();
 * await app.publish(OrderPlaced, { orderId: "o-1", total: 42 });
 * ```
 */
export function millstream(options: MillstreamOptions = {}): Millstream {
  const { clock = systemClock, random = Math.random, limits = {}, retry } = options;
  const source = checkText("source", options.source ?? "/millstream");
  const newId = uuidv7Generator(() => clock.now());
  if (retry) retryPolicy(retry);
  if (options.deadLetterAlerts) checkAlerts(options.deadLetterAlerts);
  const registry = createRegistry();
  const store = withInline(options.store ?? embeddedStore(clock), clock, registry.projections);
  const commands = commandBus();
  const queries = queryBus();
  const parts: Parts = {
    store,
    broker: options.broker ?? store.broker(),
    clock,
    random,
    observer: safeObserver(options.observer),
    factory: messageFactory({ source, clock, newId, limits }),
    limits,
    retry,
    deadLetterAlerts: options.deadLetterAlerts,
    owner: newId(),
    registry,
    commands,
    queries,
    committed: () => run.committed(),
  };
  const { answer, ask } = asking(parts);
  const { useAggregate, handle, dispatch, load } = commanding(parts, ask);
  const sagas = saving(parts, options.sagas ?? {});
  const run = running(parts, ask, sagas);
  const over = remote(parts, newId, run.own);

  function use(
    part: Aggregate | Projection | Saga | ProcessManager,
    useOptions: UseAggregateOptions | SagaUse<unknown> = {},
  ): Millstream {
    registry.assertOpen(`a ${part.kind}`);
    if (part.kind === "aggregate") useAggregate(part, useOptions as UseAggregateOptions);
    else if (part.kind === "process") sagas.useProcess(part);
    else if (part.kind === "saga") sagas.useSaga(part, useOptions as SagaUse<unknown>);
    else registry.addProjection(part);
    return app;
  }

  const app: Millstream = {
    store,
    broker: parts.broker,
    declared: {
      topics: registry.topics,
      events: registry.events,
      commands: commands.definitions,
      queries: queries.definitions,
      projections: registry.projections,
    },
    projections: later(async () =>
      (await import("../sourcing/projections.ts")).operateProjections(parts, registry.projections)
    ),
    ...sending(parts),
    on(definition, { group, ...own }, handler) {
      registry.subscribe(definition, group, own, handler as MessageHandler);
      return app;
    },
    onBatch(definition, { group, size, waitMs, concurrency, ...own }, handler) {
      const shape = batchOptions({
        ...(size === undefined ? {} : { size }),
        ...(waitMs === undefined ? {} : { waitMs }),
        ...(concurrency === undefined ? {} : { concurrency }),
      });
      let collect: Promise<(message: Message, context: HandlerContext) => Promise<void>> | undefined;
      const options = { ...own, concurrency: shape.size * shape.concurrency };
      registry.subscribe(definition, group, options, async (message, context) => {
        collect ??= import("../messaging/batches.ts").then(({ batches }) =>
          batches(clock, shape, handler as BatchHandler<unknown>)
        );
        await (await collect)(message, context);
      });
      return app;
    },
    onEveryInstance(definition, handler) {
      if (!parts.broker.log) throw noLog(parts.broker.features.name);
      registry.listen(definition, handler as Listener["handler"]);
      return app;
    },
    schedule(name, times, definition, data) {
      registry.addSchedule(schedule(name, times, definition, data));
      return app;
    },
    use: use as Millstream["use"],
    handle(definition: AnyCommand, ...rest: readonly unknown[]) {
      const [own, handler] = (rest.length === 1 ? [{}, rest[0]] : rest) as [HandleOptions, never];
      handle(definition, own, handler);
      return app;
    },
    answer(definition: AnyQuery, ...rest: readonly unknown[]) {
      const [own, handler] = (rest.length === 1 ? [{}, rest[0]] : rest) as [AnswerOptions, never];
      answer(definition, own, handler);
      return app;
    },
    middleware(middleware) {
      commands.use(middleware);
      return app;
    },
    queryMiddleware(middleware) {
      queries.use(middleware);
      return app;
    },
    send: over.send,
    request: over.request,
    serve(definition, own = {}) {
      over.serve(definition, own);
      return app;
    },
    declare(...definitions) {
      definitions.forEach(registry.declare);
      return app;
    },
    dispatch,
    load,
    ask,
    deadLetters: (filter = {}) =>
      later(async () =>
        (await import("../messaging/dead_letters.ts")).deadLetterQueue(
          parts.broker.deadLetters,
          clock,
          filter,
        )
      ),
    groups: (filter) => parts.broker.groups(filter),
    pause: run.pause,
    resume: run.resume,
    startSaga: sagas.startSaga,
    sagas: sagas.sagas,
    start: run.start,
    health: run.health,
    close: run.close,
    [Symbol.asyncDispose]: () => run.close(),
  };
  return app;
}

function noLog(broker: string): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    `Cannot listen in every instance: broker "${broker}" keeps no log`,
  );
}
