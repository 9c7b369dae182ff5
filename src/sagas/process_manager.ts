/**
 * Process managers: what is to happen next, decided from the events so far. Where a saga has its steps, a process
 * manager only reacts (Hohpe and Woolf, "Enterprise Integration Patterns", 2003).
 *
 * @module
 */
import type { AnyCommand, AnyEvent, DataOf, NewEvent } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Schema } from "../core/schema.ts";

/** What follows from an event or a timer. All of it commits together, once. */
export interface Reaction<State> {
  /** The state from now on. @default as it was */
  readonly state?: State;
  /** Commands to send, to run in a process that serves them. */
  readonly send?: readonly CommandToSend[];
  /** Events to publish. */
  readonly publish?: readonly NewEvent[];
  /** Timers to set, in milliseconds from now, by name; `null` stops one. Setting one again replaces it. */
  readonly timers?: Readonly<Record<string, number | null>>;
  /** Whether this is the end: later events and timers change nothing. @default false */
  readonly end?: boolean;
}

/** A command and its data. */
export interface CommandToSend<C extends AnyCommand = AnyCommand> {
  readonly command: C;
  readonly data: DataOf<C>;
}

/** Reacts to an event. Pure: may run more than once for the same event. */
export type EventReaction<State, Data> = (state: State, event: Message<Data>) => Reaction<State>;

/** A process manager. Immutable: each method returns a larger one. */
export interface ProcessManager<State = unknown> {
  readonly kind: "process";
  readonly name: string;
  readonly schema: Schema<unknown, State>;
  readonly initial: () => State;
  readonly events: ReadonlyMap<string, ProcessEvent<State>>;
  readonly timers: ReadonlyMap<string, (state: State) => Reaction<State>>;
  /**
   * Reacts to an event. The first one of an id begins an instance.
   *
   * @param correlate The id of the instance that the event is for; `undefined` for none.
   * @throws `INVALID_ARGUMENT` if there is a reaction already.
   */
  on<E extends AnyEvent>(
    event: E,
    correlate: (event: Message<DataOf<E>>) => string | undefined,
    react: EventReaction<State, DataOf<E>>,
  ): ProcessManager<State>;
  /** Reacts to a timer. @throws `INVALID_ARGUMENT` if there is a reaction already. */
  onTimer(name: string, react: (state: State) => Reaction<State>): ProcessManager<State>;
}

/** What a process manager does with an event. */
export interface ProcessEvent<State> {
  readonly event: AnyEvent;
  // deno-lint-ignore no-explicit-any -- the data of `event`
  readonly correlate: (event: Message<any>) => string | undefined;
  // deno-lint-ignore no-explicit-any -- as above
  readonly react: EventReaction<State, any>;
}

/**
 * Defines a process manager.
 *
 * @example
 * ```ts
 * const Payment = processManager("payment", PaymentState, () => ({ paid: false }))
 *   .on(OrderPlaced, (e) => e.data.orderId, (state, e) => ({ timers: { remind: 86_400_000 } }))
 *   .on(OrderPaid, (e) => e.data.orderId, (state) => ({ state: { paid: true }, end: true }))
 *   .onTimer("remind", (state) => ({ send: [{ command: SendReminder, data: { } }] }));
 * ```
 * @param schema The state; validated after each reaction.
 */
export function processManager<State>(
  name: string,
  schema: Schema<unknown, State>,
  initial: () => State,
): ProcessManager<State> {
  return build({ name: checkName("process manager name", name), schema, initial }, new Map(), new Map());
}

function build<State>(
  head: Pick<ProcessManager<State>, "name" | "schema" | "initial">,
  events: ProcessManager<State>["events"],
  timers: ProcessManager<State>["timers"],
): ProcessManager<State> {
  function added<Value>(map: ReadonlyMap<string, Value>, key: string, value: Value): Map<string, Value> {
    if (!map.has(key)) return new Map([...map, [key, value]]);
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot add a second reaction to "${key}" to process manager "${head.name}"`,
    );
  }
  return {
    kind: "process",
    ...head,
    events,
    timers,
    on: (event, correlate, react) =>
      build(head, added(events, event.type, { event, correlate, react }), timers),
    onTimer: (name, react) => build(head, events, added(timers, checkName("timer", name), react)),
  };
}
