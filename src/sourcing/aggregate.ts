/**
 * Aggregates: three plain things. What the state is at first, what a command decides, what an event changes.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { AnyCommand, AnyEvent, DataOf, NewEvent } from "../core/definition.ts";
import type { MillstreamError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Schema } from "../core/schema.ts";

/** What a decision returns: events, none if nothing changes, or {@linkcode refuse} to say no. */
export type Decision = readonly NewEvent[] | MillstreamError;

/** How an aggregate decides, by command type. */
export type Deciders<State, Commands extends readonly AnyCommand[]> = {
  readonly [Type in Commands[number]["type"]]: (
    command: Message<DataOf<Extract<Commands[number], { readonly type: Type }>>>,
    state: State,
  ) => Decision;
};

/** How an aggregate's state follows from its events, by event type. */
export type Evolvers<State, Events extends readonly AnyEvent[]> = {
  readonly [Type in Events[number]["type"]]: (
    state: State,
    event: Message<DataOf<Extract<Events[number], { readonly type: Type }>>>,
  ) => State;
};

/** What {@linkcode aggregate} takes. */
export interface AggregateParts<
  State,
  Commands extends readonly AnyCommand[],
  Events extends readonly AnyEvent[],
> {
  /** The commands it handles. */
  readonly commands: Commands;
  /** The events it consists of. */
  readonly events: Events;
  /** The state before the first event. */
  readonly initial: () => State;
  /** Pure. Called again with the new state if another writer was faster. */
  readonly decide: Deciders<State, Commands>;
  /** Pure and total: it never refuses what has happened. */
  readonly evolve: Evolvers<State, Events>;
  /** The state's schema: a snapshot that does not match it is not used. @default any state */
  readonly state?: Schema<unknown, State>;
  /** Keeps the state of long streams, so that not all events are read each time. @default none */
  readonly snapshots?: SnapshotOptions;
}

/** Options of {@linkcode AggregateParts.snapshots}. */
export interface SnapshotOptions {
  /** A snapshot is made when this many events were folded since the last one. */
  readonly every: number;
  /**
   * Snapshots of another version are not used. They are not either when the source text of `evolve` or the version of
   * an event has changed; raise this when `evolve` calls something that has. @default 1
   */
  readonly version?: number;
}

/** An aggregate. */
export interface Aggregate<State = unknown> {
  readonly kind: "aggregate";
  /** Its streams are named `<name>-<id>`. */
  readonly name: string;
  readonly commands: readonly AnyCommand[];
  readonly events: ReadonlyMap<string, AnyEvent>;
  readonly initial: (id?: string) => State;
  readonly snapshots: SnapshotPolicy | undefined;
  decide(command: Message, state: State): Decision;
  evolve(state: State, event: Message): State;
}

/** How an aggregate's snapshots are made and recognised. */
export interface SnapshotPolicy {
  readonly every: number;
  /** All that the state depends on beside the events. Snapshots made under another one are not used. */
  readonly fold: string;
  readonly state: Schema | undefined;
}

/**
 * Defines an aggregate.
 *
 * @example
 * ```ts
 * const Order = aggregate("order", {
 *   commands: [PlaceOrder],
 *   events: [OrderPlaced],
 *   initial: () => ({ status: "none" }),
 *   decide: { "order.place": ({ data }, state) => state.status === "none" ? [OrderPlaced(data)] : refuse("ORDER_EXISTS") },
 *   evolve: { "order.placed": (state, { data }) => ({ ...state, status: "pending", total: data.total }) },
 * });
 * ```
 */
export function aggregate<
  State,
  const Commands extends readonly AnyCommand[],
  const Events extends readonly AnyEvent[],
>(
  name: string,
  parts: AggregateParts<State, Commands, Events>,
): Aggregate<State> {
  const decide = parts.decide as Readonly<Record<string, (command: Message, state: State) => Decision>>;
  const { snapshots, state } = parts;
  if (snapshots) checkRange("snapshots.every", snapshots.every, 1, 1_000_000, true);
  const evolve = parts.evolve as Readonly<Record<string, (state: State, event: Message) => State>>;
  return {
    kind: "aggregate",
    name: checkName("aggregate name", name),
    commands: parts.commands,
    events: new Map(parts.events.map((event) => [event.type, event])),
    initial: () => parts.initial(),
    snapshots: snapshots && {
      every: snapshots.every,
      state: state as Schema | undefined,
      fold: [
        name,
        snapshots.version ?? 1,
        ...parts.events.map(({ type, version }) => `${type}/${version} ${evolve[type]}`),
      ].join("\n"),
    },
    decide: (command, state) => decide[command.type]!(command, state),
    evolve: (state, event) => evolve[event.type]!(state, event),
  };
}

/** The stream of one aggregate. */
export function streamOf(aggregate: Aggregate<never> | Aggregate, id: string): string {
  return `${aggregate.name}-${id}`;
}
