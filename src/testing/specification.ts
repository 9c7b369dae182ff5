/**
 * Specifications of aggregates: given these events, when this command comes, then these events follow, or this refusal.
 *
 * @module
 */
import { decodeMessage } from "../core/codec.ts";
import type { AnyCommand, AnyEvent, DataOf, NewEvent } from "../core/definition.ts";
import { upgrade } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import { validate } from "../core/schema.ts";
import { messageFactory } from "../messaging/factory.ts";
import type { Aggregate } from "../sourcing/aggregate.ts";
import { deepEqual, fail } from "./assert.ts";
import { virtualClock } from "./virtual_clock.ts";

/** The history that a specification begins with. */
export interface Given<State> {
  /** The command under test. Its data is validated as it would be in an application. */
  when<C extends AnyCommand>(command: C, data: DataOf<C>, options?: MessageOptions): When<State>;
}

/** A command on a history. Ends with one of its members. */
export interface When<State> {
  /**
   * Runs the command, and fails unless it causes exactly these events (types and data, in this order; none for `[]`),
   * or is refused with this reason: `refuse("ORDER_EXISTS")`.
   */
  then(expected: readonly NewEvent[] | MillstreamError): Promise<void>;
  /** Runs the command and folds what it caused: the state afterwards, to look at. Rejects if it is refused. */
  state(): Promise<State>;
}

/**
 * Begins a specification of an aggregate. Everything passes through the codec and the schemas on its way, as it does
 * between processes: an event that does not survive storing fails here, not in production.
 *
 * @example
 * ```ts ignore
 * await given(Order, OrderPlaced({ orderId: "o-1", total: 42 }))
 *   .when(ConfirmOrder, { orderId: "o-1" })
 *   .then([OrderConfirmed({ orderId: "o-1" })]);
 * await given(Order).when(ConfirmOrder, { orderId: "o-1" }).then(refuse("NO_SUCH_ORDER"));
 * ```
 * @param history What has happened, oldest first.
 */
export function given<State>(aggregate: Aggregate<State>, ...history: readonly NewEvent[]): Given<State> {
  const clock = virtualClock();
  let ids = 0;
  const factory = messageFactory({
    source: "/specification",
    clock,
    newId: () => `id-${++ids}`,
    limits: {},
  });

  /** The event as it comes back from a store. */
  async function recorded({ definition, data, options }: NewEvent): Promise<Message> {
    const known = aggregate.events.get(definition.type);
    if (!known) fail(`Cannot use event "${definition.type}": aggregate "${aggregate.name}" does not have it`);
    const { body } = await factory.event(definition, data, options);
    return await upgrade(known, decodeMessage(body));
  }

  async function fold(events: readonly NewEvent[]): Promise<State> {
    let state = aggregate.initial();
    for (const event of events) state = aggregate.evolve(state, await recorded(event));
    return state;
  }

  async function decide(command: AnyCommand, data: unknown, options: MessageOptions): Promise<
    readonly NewEvent[] | MillstreamError
  > {
    if (!aggregate.commands.includes(command)) {
      fail(`Cannot send command "${command.type}": aggregate "${aggregate.name}" does not take it`);
    }
    const state = await fold(history);
    return aggregate.decide(await factory.command(command, data, options), state);
  }

  return {
    when: (command, data, options = {}) => ({
      async then(expected) {
        if (typeof expected === "function") {
          // `await given(...).when(...)` calls `then` with two functions: it would test nothing.
          const [, reject] = arguments as unknown as [unknown, (error: Error) => void];
          return reject(
            new MillstreamError("INVALID_ARGUMENT", "Cannot await a specification without .then(expected)"),
          );
        }
        const decided = await decide(command, data, options);
        if (!(expected instanceof MillstreamError)) return await expectEvents(decided, expected);
        if (!(decided instanceof MillstreamError)) {
          fail(`expected ${reason(expected)}, but it caused ${types(decided)}`);
        }
        if (reason(decided) !== reason(expected)) {
          fail(`expected ${reason(expected)}, got ${reason(decided)}`);
        }
      },
      async state() {
        const decided = await decide(command, data, options);
        if (decided instanceof MillstreamError) throw decided;
        return await fold([...history, ...decided]);
      },
    }),
  };

  async function expectEvents(
    decided: readonly NewEvent[] | MillstreamError,
    expected: readonly NewEvent[],
  ): Promise<void> {
    if (decided instanceof MillstreamError) {
      fail(`expected ${types(expected)}, but it was refused: ${reason(decided)}`);
    }
    for (const event of decided) await recorded(event);
    const plain = (events: readonly NewEvent[]): Promise<unknown[]> =>
      Promise.all(events.map(async ({ definition, data }) => ({
        type: definition.type,
        data: await validate((definition as AnyEvent).schema, data, `event "${definition.type}"`),
      })));
    deepEqual(await plain(decided), await plain(expected), "events");
  }
}

function types(events: readonly NewEvent[]): string {
  return events.length === 0 ? "no events" : events.map(({ type }) => type).join(", ");
}

function reason(error: MillstreamError): string {
  return error.code === "REFUSED" ? `refusal ${String(error.details.reason)}` : error.code;
}
