/**
 * Aggregates for those who think in objects: a base class whose methods raise events, and how one is used where a
 * functional aggregate is.
 *
 * @module
 */
import type { AnyCommand, AnyEvent, DataOf, NewEvent } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Message } from "../core/message.ts";
import type { Effects } from "../messaging/context.ts";
import { type Aggregate, aggregate, streamOf } from "./aggregate.ts";

/** An event as {@linkcode AggregateRoot.when} gets it: a union to switch on by `type`. */
export type AppliedEvent<E extends AnyEvent> = E extends AnyEvent
  ? { readonly type: E["type"]; readonly data: DataOf<E> }
  : never;

/**
 * Base class of aggregates. Methods decide and call {@linkcode AggregateRoot.apply}; `when` changes the state, and
 * nothing else does.
 *
 * @example
 * ```ts
 * class Order extends AggregateRoot<typeof OrderCreated | typeof OrderConfirmed> {
 *   #status = "none";
 *   confirm(): void {
 *     if (this.#status !== "pending") throw refuse("NOT_PENDING");
 *     this.apply(OrderConfirmed({ orderId: this.id }));
 *   }
 *   protected when(event: AppliedEvent<typeof OrderCreated | typeof OrderConfirmed>): void {
 *     this.#status = event.type === "order.created" ? "pending" : "confirmed";
 *   }
 * }
 * ```
 */
export abstract class AggregateRoot<Events extends AnyEvent = AnyEvent> {
  /** The stream's name is `<aggregate name>-<id>`. */
  readonly id: string;
  #version = 0;
  #uncommitted: NewEvent[] = [];

  constructor(id: string) {
    this.id = id;
  }

  /** How many events its state comes from, those not yet stored included. */
  get version(): number {
    return this.#version;
  }

  /** What happened since it was loaded, and is not stored yet. */
  get uncommittedEvents(): readonly NewEvent[] {
    return [...this.#uncommitted];
  }

  /** Forgets {@linkcode AggregateRoot.uncommittedEvents}: they are stored now. */
  clearUncommittedEvents(): void {
    this.#uncommitted = [];
  }

  /** Brings it to the state after these events, which follow what it has seen. */
  loadFromHistory(events: Iterable<{ readonly type: string; readonly data: unknown }>): void {
    for (const event of events) {
      this.when(event as AppliedEvent<Events>);
      this.#version++;
    }
  }

  /** Changes the state. Called for events of the past as for new ones; it never refuses. */
  protected abstract when(event: AppliedEvent<Events>): void;

  /** Raises an event: changes the state, and keeps the event to be stored. */
  protected apply(event: NewEvent): void {
    this.loadFromHistory([event]);
    this.#uncommitted.push(event);
  }
}

/** What {@linkcode aggregateOf} takes. */
export interface RootParts<
  Root extends AggregateRoot,
  Commands extends readonly AnyCommand[],
> {
  /** The commands it handles. */
  readonly commands: Commands;
  /** The events it consists of. */
  readonly events: readonly AnyEvent[];
  /** Which method a command calls. It says no by throwing `refuse(...)`. */
  readonly handle: {
    readonly [Type in Commands[number]["type"]]: (
      root: Root,
      command: Message<DataOf<Extract<Commands[number], { readonly type: Type }>>>,
    ) => void;
  };
}

/**
 * An aggregate made of a class, for `app.use`: each command gets a root of its own, loaded from its stream.
 *
 * @example
 * ```ts
 * app.use(aggregateOf("order", Order, {
 *   commands: [ConfirmOrder],
 *   events: [OrderCreated, OrderConfirmed],
 *   handle: { "order.confirm": (order) => order.confirm() },
 * }), { id: ({ orderId }) => orderId });
 * ```
 */
export function aggregateOf<Root extends AggregateRoot, const Commands extends readonly AnyCommand[]>(
  name: string,
  Class: new (id: string) => Root,
  { commands, events, handle }: RootParts<Root, Commands>,
): Aggregate<Root> {
  const handlers = handle as Readonly<Record<string, (root: Root, command: Message) => void>>;
  const parts = { commands, events, initial: () => new Class(""), decide: {}, evolve: {} };
  return {
    ...aggregate<Root, Commands, readonly AnyEvent[]>(name, parts as never),
    initial: (id = "") => new Class(id),
    decide(command, root) {
      try {
        handlers[command.type]!(root, command);
      } catch (failure) {
        if (failure instanceof MillstreamError) return failure;
        throw failure;
      }
      const raised = root.uncommittedEvents;
      root.clearUncommittedEvents();
      return raised;
    },
    evolve(root, event) {
      root.loadFromHistory([event]);
      return root;
    },
  };
}

/** Loads and saves the roots of an aggregate. */
export interface Repository<Root extends AggregateRoot> {
  /** The root as it stands; at version 0 if nothing has happened to it. */
  load(id: string): Promise<Root>;
  /**
   * Appends the root's uncommitted events if nobody else has appended since it was loaded.
   *
   * @param effects A handler's context: the events then commit with its other effects.
   * @throws `CONCURRENCY_CONFLICT`: load it again and decide anew.
   */
  save(root: Root, effects?: Pick<Effects, "append">): Promise<void>;
}

/** The repository of an aggregate made of a class. */
export function repository<Root extends AggregateRoot>(
  app: Pick<Effects, "append"> & {
    load<State>(aggregate: Aggregate<State>, id: string): Promise<{ readonly state: State }>;
  },
  aggregate: Aggregate<Root>,
): Repository<Root> {
  return {
    load: async (id) => (await app.load(aggregate, id)).state,
    async save(root, effects = app) {
      const events = root.uncommittedEvents;
      if (events.length === 0) return;
      await effects.append(
        streamOf(aggregate as Aggregate<never>, root.id),
        events,
        root.version - events.length,
      );
      root.clearUncommittedEvents();
    },
  };
}
