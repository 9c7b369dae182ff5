/**
 * The assembly: puts store, broker and patterns together, starts what runs by itself, and stops it again.
 *
 * @module
 */
import { type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import { type Clock, systemClock } from "../core/clock.ts";
import type { MessageLimits } from "../core/codec.ts";
import type { AnyCommand, AnyEvent, AnyQuery, TopicDefinition } from "../core/definition.ts";
import { disposer } from "../core/dispose.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import { type Random, uuidv5, uuidv7Generator } from "../core/ids.ts";
import type { EncodedMessage, Message, MessageOptions } from "../core/message.ts";
import { checkName, checkText } from "../core/names.ts";
import { type Observer, safeObserver } from "../core/observer.ts";
import { validate } from "../core/schema.ts";
import { formatToken, parseToken } from "../core/token.ts";
import {
  alreadyRegistered,
  commandBus,
  type CommandContext,
  type CommandHandler,
} from "../cqrs/command_bus.ts";
import { queryBus } from "../cqrs/query_bus.ts";
import {
  type Consumer,
  type ConsumerOptions,
  consumerOptions,
  startConsumer,
} from "../messaging/consumer.ts";
import type { DispatchResult } from "../messaging/context.ts";
import { inherited, messageFactory } from "../messaging/factory.ts";
import type { Loop } from "../messaging/loop.ts";
import { startRelay } from "../messaging/relay.ts";
import { unitOfWork, type UnitOptions } from "../messaging/unit_of_work.ts";
import type { Broker, PublishOptions } from "../ports/broker.ts";
import type { Store } from "../ports/store.ts";
import type { Saga, SagaUse } from "../sagas/definition.ts";
import type { SagaParts } from "../sagas/orchestrator.ts";
import { startInstance } from "../sagas/start.ts";
import { type Aggregate, streamOf } from "../sourcing/aggregate.ts";
import { handleCommand } from "../sourcing/handle_command.ts";
import { type Projection, startProjection, waitFor } from "../sourcing/projection.ts";
import type { AnswerOptions, AskOptions, Health, Millstream, UseAggregateOptions } from "./application.ts";
import { addHandler, deliveryHandler, type GroupMember, type MessageHandler } from "./deliveries.ts";
import { embeddedStore } from "./embedded.ts";
import { eventsForStream, eventsForTopic } from "./outside.ts";

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
  const store = options.store ?? embeddedStore(clock);
  const broker = options.broker ?? store.broker();
  const observer = safeObserver(options.observer);
  const newId = uuidv7Generator(() => clock.now());
  const owner = newId();
  const factory = messageFactory({ source, clock, newId, limits });
  if (retry) retryPolicy(retry);

  const topics = new Map<string, { open: boolean; readonly events: Map<string, AnyEvent> }>();
  const events = new Map<string, AnyEvent>();
  const commands = commandBus();
  const queries = queryBus();
  const readFrom = new Map<string, readonly Projection[]>();
  const members = new Map<string, GroupMember>();
  const projections = new Map<string, Projection>();
  const sagas = new Map<string, Saga>();
  const declared = { topics, events, commands: commands.definitions, queries: queries.definitions };

  const loops: Loop[] = [];
  const consumers: Consumer[] = [];
  let relay: Loop | undefined;
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;

  const committed = (): void => relay?.wake();
  const sagaParts: SagaParts = {
    store,
    factory,
    clock,
    random,
    observer,
    owner,
    committed,
    dispatch: (command) => commands.dispatch(command),
  };

  // ---- Registration -------------------------------------------------------------------------------------------------

  function declare(definition: AnyEvent | TopicDefinition): void {
    const topic = topics.get(definition.topic) ?? { open: false, events: new Map<string, AnyEvent>() };
    topics.set(definition.topic, topic);
    if (definition.kind === "topic") return void (topic.open = true);
    const other = events.get(definition.type);
    if (other && other !== definition) {
      throw new MillstreamError("INVALID_ARGUMENT", `Cannot define event "${definition.type}" twice`);
    }
    topic.events.set(definition.type, definition);
    events.set(definition.type, definition);
  }

  function notStarted(what: string): void {
    if (starting) {
      throw new MillstreamError("INVALID_ARGUMENT", `Cannot add ${what} after the application was started`);
    }
  }

  function subscribe(
    definition: AnyEvent | TopicDefinition,
    group: string,
    own: ConsumerOptions,
    handler: MessageHandler,
  ): void {
    notStarted("a handler");
    consumerOptions(own);
    checkName("group", group);
    declare(definition);
    const target = {
      topic: definition.topic,
      group,
      definition: definition.kind === "event" ? definition : undefined,
    };
    addHandler(members, target, own, handler);
  }

  function useAggregate(aggregate: Aggregate, { id }: UseAggregateOptions): void {
    for (const definition of aggregate.events.values()) declare(definition);
    for (const definition of aggregate.commands) {
      if (definition.resultSchema) throw resultOfAggregate(aggregate.name, definition.type);
      commands.register(definition, async (command) => {
        const stream = checkText("stream", streamOf(aggregate, id(command.data)));
        const { version, position } = await handleCommand(
          { events: store.events, factory, clock, random },
          aggregate,
          stream,
          command,
        );
        committed();
        return { id: command.id, result: undefined, stream, version, position: formatToken(position) };
      });
    }
  }

  function useSaga(saga: Saga, { startOn, id, data }: SagaUse<unknown>): void {
    if (sagas.has(saga.name)) throw alreadyRegistered("saga", saga.name);
    sagas.set(saga.name, saga);
    if (!startOn) return;
    subscribe(startOn, `saga-${saga.name}`, {}, async (event) => {
      const start = { data: data ? data(event) : event.data, correlationId: event.correlationId ?? event.id };
      await startInstance(sagaParts, saga, id ? id(event) : `${saga.name}-${event.id}`, start);
    });
  }

  function use(
    part: Aggregate | Projection | Saga,
    useOptions: UseAggregateOptions | SagaUse<unknown> = {},
  ): Millstream {
    notStarted(`a ${part.kind}`);
    if (part.kind === "aggregate") useAggregate(part, useOptions as UseAggregateOptions);
    else if (part.kind === "saga") useSaga(part, useOptions as SagaUse<unknown>);
    else useProjection(part);
    return app;
  }

  function useProjection(projection: Projection): void {
    if (projections.has(projection.name)) throw alreadyRegistered("projection", projection.name);
    projections.set(projection.name, projection);
    for (const definition of projection.events.values()) declare(definition);
  }

  function handle(definition: AnyCommand, handler: CommandHandler<never, unknown>): void {
    commands.register(definition, async (command) => {
      let sent = 0;
      const inherit = inherited(command);
      const unit: UnitOptions = { inherit, idFor: (index) => uuidv5(`${command.id}/${index}`) };
      const outcome = await unitOfWork(store, factory, unit, async (effects) => {
        const context: CommandContext = {
          ...effects,
          idempotencyKey: command.id,
          signal: new AbortController().signal,
          ask,
          async dispatch(next, nextData, own = {}) {
            const id = await uuidv5(`${command.id}/command/${sent++}`);
            return await dispatch(next, nextData, { ...inherit, id, ...own });
          },
        };
        const result = await handler(command as Message<never>, context);
        // Before the commit: an answer that is wrong leaves nothing behind.
        if (!definition.resultSchema) return result;
        return await validate(definition.resultSchema, result, `result of command "${command.type}"`);
      });
      if (outcome.published) committed();
      const base = { id: command.id, result: outcome.value };
      return outcome.position === undefined ? base : { ...base, position: formatToken(outcome.position) };
    });
  }

  // ---- Sending and asking -------------------------------------------------------------------------------------------

  async function send(
    topic: string,
    messages: readonly EncodedMessage[],
    publishOptions: PublishOptions,
  ): Promise<readonly string[]> {
    const ids = messages.map(({ id }) => id);
    try {
      await broker.publish(topic, messages, publishOptions);
    } catch (failure) {
      if (!isMillstreamError(failure, "PUBLISH_INDETERMINATE")) throw failure;
      // The caller needs the ids to publish again as the same messages.
      throw new MillstreamError(failure.code, failure.message, {
        cause: failure,
        details: { ...failure.details, ids },
      });
    }
    observer({ kind: "published", topic, count: messages.length });
    return ids;
  }

  async function dispatch<C extends AnyCommand>(
    definition: C,
    data: unknown,
    messageOptions: MessageOptions = {},
  ): Promise<DispatchResult<never>> {
    return await commands.dispatch(await factory.command(definition, data, messageOptions)) as DispatchResult<
      never
    >;
  }

  async function ask<Q extends AnyQuery>(
    definition: Q,
    params: unknown,
    askOptions: AskOptions = {},
  ): Promise<never> {
    const { after, waitMs = 5_000, signal = new AbortController().signal } = askOptions;
    const token = typeof after === "object" ? after.position : after;
    const position = token === undefined ? undefined : parseToken(token);
    const ready = async (): Promise<void> => {
      const waiting = readFrom.get(definition.type) ?? [];
      if (position !== undefined && waiting.length > 0) {
        await waitFor({ store, clock }, waiting, position, { waitMs, signal });
      }
    };
    return await queries.ask(definition.type, params, { sql: store.sql, signal, ready }) as never;
  }

  // ---- Running ------------------------------------------------------------------------------------------------------

  async function start(): Promise<void> {
    await store.start();
    relay = startRelay({ store, publisher: broker, clock, observer, owner });
    loops.push(relay);
    for (const projection of projections.values()) {
      loops.push(startProjection({ store, clock, observer, owner }, projection));
    }
    if (sagas.size > 0) {
      // Loaded on demand: most applications at the edge drive no sagas.
      const { startOrchestrator } = await import("../sagas/orchestrator.ts");
      loops.push(startOrchestrator(sagaParts, sagas));
    }
    const parts = {
      store,
      factory,
      clock,
      observer,
      limits,
      committed,
      ask,
      dispatch: (command: Message) => commands.dispatch(command),
    };
    for (const member of members.values()) {
      const target = { topic: member.topic, group: member.group };
      consumers.push(
        startConsumer(
          { broker, clock, observer, random },
          target,
          consumerOptions({ ...(retry ? { retry } : {}), ...member.options }),
          deliveryHandler(parts, member),
        ),
      );
    }
  }

  async function close(graceMs: number): Promise<void> {
    await starting?.catch(() => {});
    const parts = disposer(); // closes last-in, first-out, all of them, also if one fails
    parts.defer(async () => await store[Symbol.asyncDispose]());
    parts.defer(async () => await broker[Symbol.asyncDispose]());
    parts.defer(() => allSettled(loops.map((loop) => loop.stop())));
    parts.defer(() => allSettled(consumers.map((consumer) => consumer.stop(graceMs))));
    await parts.dispose();
  }

  async function health(): Promise<Health> {
    const say = (ping: Promise<void>): Promise<string> =>
      ping.then(() => "ok", (failure) => toError(failure).message);
    const [storeState, brokerState] = await Promise.all([say(store.ping()), say(broker.ping())]);
    const states = [
      ...loops.map((loop) => loop.health()),
      ...consumers.flatMap((consumer) => consumer.health()),
    ];
    const running = starting !== undefined && closing === undefined;
    const ready = running && storeState === "ok" && brokerState === "ok" &&
      states.every(({ healthy }) => healthy);
    return { ready, store: storeState, broker: brokerState, loops: states };
  }

  const app: Millstream = {
    store,
    broker,
    declared,
    async publish(definition, data, { delayMs, signal, ...messageOptions } = {}) {
      const message = await factory.event(definition as AnyEvent, data, messageOptions);
      await send(definition.topic, [message], {
        ...(delayMs ? { delayMs } : {}),
        ...(signal ? { signal } : {}),
      });
      return { id: message.id };
    },
    async publishEvents(topic, parsed, publishOptions = {}) {
      return {
        ids: await send(topic, await eventsForTopic(declared, topic, parsed, limits), publishOptions),
      };
    },
    async appendEvents(stream, parsed, expected) {
      const [result] = await store.events.append([{
        stream,
        expected,
        events: await eventsForStream(declared, stream, parsed, limits),
      }]);
      committed();
      return result!;
    },
    on(definition, { group, ...own }, handler) {
      subscribe(definition, group, own, handler as MessageHandler);
      return app;
    },
    use: use as Millstream["use"],
    handle(definition, handler) {
      handle(definition, handler as CommandHandler<never, unknown>);
      return app;
    },
    answer(definition: AnyQuery, ...rest: readonly unknown[]) {
      const [answerOptions, handler] = (rest.length === 1 ? [{}, rest[0]] : rest) as [AnswerOptions, never];
      queries.register(definition, handler);
      readFrom.set(definition.type, answerOptions.after ?? []);
      return app;
    },
    middleware(middleware) {
      commands.use(middleware);
      return app;
    },
    declare(...definitions) {
      definitions.forEach(declare);
      return app;
    },
    dispatch,
    ask,
    startSaga: (saga, id, data, { correlationId = id } = {}) =>
      startInstance(sagaParts, saga, id, { data, correlationId }),
    async start({ signal } = {}) {
      if (closing) {
        throw new MillstreamError("CLOSED", "Cannot start the application again after it was closed");
      }
      starting ??= start().catch((failure) => {
        starting = undefined; // nothing runs yet: the same call may succeed later
        throw failure;
      });
      await starting;
      signal?.addEventListener(
        "abort",
        () =>
          void app.close().catch((failure) =>
            observer({ kind: "loop-failed", loop: "close", error: toError(failure) })
          ),
        { once: true },
      );
      if (signal?.aborted) await app.close();
    },
    health,
    close: ({ graceMs = 10_000 } = {}) => closing ??= close(graceMs),
    [Symbol.asyncDispose]: () => app.close(),
  };
  return app;
}

async function allSettled(work: readonly Promise<unknown>[]): Promise<void> {
  const failed = (await Promise.allSettled(work)).find(({ status }) => status === "rejected");
  if (failed?.status === "rejected") throw failed.reason;
}

function resultOfAggregate(name: string, type: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use command "${type}" with aggregate "${name}": it has a result schema, and aggregates answer nothing`,
  );
}
