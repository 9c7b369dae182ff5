/**
 * What an application has: topics and events, group members, projections and sagas, each registered once and before
 * the start.
 *
 * @module
 */
import type { AnyEvent, TopicDefinition } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import { alreadyRegistered } from "../cqrs/command_bus.ts";
import { type ConsumerOptions, consumerOptions } from "../messaging/consumer_options.ts";
import type { Listener } from "../messaging/broadcasts.ts";
import type { Schedule } from "../messaging/schedule_options.ts";
import type { Saga } from "../sagas/definition.ts";
import type { Projection } from "../sourcing/projection.ts";
import type { Declared } from "./application.ts";
import { addHandler, type GroupMember, type MessageHandler } from "./members.ts";

/** See the module. */
export interface Registry {
  readonly topics: Declared["topics"];
  readonly events: Declared["events"];
  readonly members: ReadonlyMap<string, GroupMember>;
  readonly projections: ReadonlyMap<string, Projection>;
  readonly sagas: ReadonlyMap<string, Saga>;
  readonly schedules: ReadonlyMap<string, Schedule>;
  readonly listeners: readonly Listener[];
  /** Makes a topic, or an event and its topic, known. The same definition again changes nothing. */
  declare(definition: AnyEvent | TopicDefinition): void;
  subscribe(
    definition: AnyEvent | TopicDefinition,
    group: string,
    options: ConsumerOptions,
    handler: MessageHandler,
  ): void;
  /** As {@linkcode Registry.subscribe}, for a topic that nobody outside may publish to. */
  join(topic: string, group: string, options: ConsumerOptions, handler: MessageHandler): void;
  addProjection(projection: Projection): void;
  addSaga(saga: Saga): void;
  addSchedule(schedule: Schedule): void;
  listen(definition: AnyEvent | TopicDefinition, handler: Listener["handler"]): void;
  /** Refuses `what` once the application was started. */
  assertOpen(what: string): void;
  /** From now on, or (`false`) no longer, nothing can be added. */
  seal(sealed: boolean): void;
}

/** An empty registry. */
export function createRegistry(): Registry {
  const topics = new Map<string, { open: boolean; readonly events: Map<string, AnyEvent> }>();
  const events = new Map<string, AnyEvent>();
  const members = new Map<string, GroupMember>();
  const projections = new Map<string, Projection>();
  const sagas = new Map<string, Saga>();
  const schedules = new Map<string, Schedule>();
  const listeners: Listener[] = [];
  let isSealed = false;

  function assertOpen(what: string): void {
    if (!isSealed) return;
    throw new MillstreamError("INVALID_ARGUMENT", `Cannot add ${what} after the application was started`);
  }

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

  return {
    topics,
    events,
    members,
    projections,
    sagas,
    schedules,
    listeners,
    declare,
    assertOpen,
    seal: (sealed) => void (isSealed = sealed),
    subscribe(definition, group, options, handler) {
      assertOpen("a handler");
      consumerOptions(options);
      checkName("group", group);
      declare(definition);
      const event = definition.kind === "event" ? definition : undefined;
      addHandler(members, { topic: definition.topic, group, definition: event }, options, handler);
    },
    join(topic, group, options, handler) {
      assertOpen("a handler");
      consumerOptions(options);
      checkName("group", group);
      addHandler(
        members,
        { topic: checkName("topic", topic), group, definition: undefined },
        options,
        handler,
      );
    },
    addProjection(projection) {
      if (projections.has(projection.name)) throw alreadyRegistered("projection", projection.name);
      projections.set(projection.name, projection);
      for (const definition of projection.events.values()) declare(definition);
    },
    listen(definition, handler) {
      assertOpen("a listener");
      declare(definition);
      const event = definition.kind === "event" ? definition : undefined;
      listeners.push({ topic: definition.topic, definition: event, handler });
    },
    addSchedule(schedule) {
      assertOpen("a schedule");
      if (schedules.has(schedule.name)) throw alreadyRegistered("schedule", schedule.name);
      schedules.set(schedule.name, schedule);
      declare(schedule.definition);
    },
    addSaga(saga) {
      if (sagas.has(saga.name)) throw alreadyRegistered("saga", saga.name);
      sagas.set(saga.name, saga);
    },
  };
}
