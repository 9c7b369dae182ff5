/**
 * Projections: read models built from the events of the store. What a projection is; how it runs is told by
 * `projection_runner.ts`, and inside appends by `inline.ts`.
 *
 * @module
 */
import { checkRange, type ResolvedRetryPolicy, type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import type { AnyEvent, DataOf } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Recorded } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Sql } from "../ports/sql.ts";

/** An event as a projection gets it: a union to switch on by `type`. */
export type ProjectedEvent<E extends AnyEvent> = E extends AnyEvent
  ? Recorded<DataOf<E>> & { readonly type: E["type"] }
  : never;

/** What a projection of these events gets; without any, it takes all events, with their data as it is stored. */
export type ProjectedOf<Events extends readonly AnyEvent[]> = Events extends readonly [] ? Recorded
  : ProjectedEvent<Events[number]>;

/** One filling of a read model. While it is rebuilt there are two, side by side. */
export interface ProjectionTarget {
  /** SQL in the transaction. */
  readonly sql: Sql;
  /** 1, 2, 3, ... */
  readonly build: number;
  /** To tell the tables of one build from those of another: `""` for the first, then `"_2"`, `"_3"`, ... */
  readonly suffix: string;
}

/** Context of a projection's handler. */
export interface ProjectionContext extends ProjectionTarget {
  /**
   * SQL in the transaction that also moves the checkpoint. With `transactional: false` it is SQL outside of any
   * transaction.
   */
  readonly sql: Sql;
  /** Where the checkpoint stands after this batch. A target elsewhere keeps it, and refuses what is not beyond. */
  readonly position: bigint;
  /** From 0 to `lanes - 1`. Each lane has positions of its own. */
  readonly lane: number;
  /** Grows with each worker of this lane. A target elsewhere that keeps it can refuse a worker that was overtaken. */
  readonly epoch: number;
  /** Aborts when another worker has taken over, or the process shuts down. */
  readonly signal: AbortSignal;
}

/** Options of {@linkcode projection}. */
export interface ProjectionOptions<Events extends readonly AnyEvent[]> {
  /** The events it is built from. @default all, with their data as it is stored */
  readonly on?: Events;
  /** Only streams of this category: those whose name is `<category>-<id>`. @default all */
  readonly category?: string;
  /**
   * Another version is another read model: it is built beside the one before, by the processes that have it, and takes
   * its place when it has caught up. @default 1
   */
  readonly version?: number;
  /** At most this many events in one transaction. @default 1_000 */
  readonly batchSize?: number;
  /**
   * How many batches may run at the same time, each of other streams. The order of a stream is kept. Counts for new
   * builds only. @default 1
   */
  readonly lanes?: number;
  /** When a handler's failure is tried again, one event at a time. @default 10 attempts, from 200 ms up to 60 s */
  readonly retry?: RetryPolicy;
  /**
   * What becomes of an event that fails at each attempt, or cannot be read: `"retry"` goes on trying for ever, and
   * readiness shows it; `"stop"` stops the projection until it is resumed; `"park"` puts the event aside and goes on.
   * @default "retry"
   */
  readonly poison?: "retry" | "stop" | "park";
  /**
   * Whether the handler's writes belong to the transaction that moves the checkpoint: each event then takes effect
   * once. Say `false` for targets outside this database: the handler runs outside of any transaction, and gets a batch
   * again after a crash. @default true
   */
  readonly transactional?: boolean;
  /**
   * Runs it inside of each append, in its transaction: an append that it fails fails. It sees what is appended from
   * then on by processes that have it, and is not rebuilt. @default false
   */
  readonly inline?: boolean;
  /** Makes the tables of a build, in the transaction that begins it. */
  readonly create?: (target: ProjectionTarget) => unknown;
  /** Lets queries read from this build, in the transaction that makes it the live one. */
  readonly swap?: (target: ProjectionTarget) => unknown;
  /** Removes the tables of a build that was replaced or called off, in that transaction. */
  readonly drop?: (target: ProjectionTarget) => unknown;
}

/** A projection. */
export interface Projection {
  readonly kind: "projection";
  readonly name: string;
  /** By type; empty if it takes all. */
  readonly events: ReadonlyMap<string, AnyEvent>;
  readonly category: string | undefined;
  readonly version: number;
  readonly batchSize: number;
  readonly lanes: number;
  readonly retry: ResolvedRetryPolicy;
  readonly poison: "retry" | "stop" | "park";
  readonly transactional: boolean;
  readonly inline: boolean;
  create(target: ProjectionTarget): Promise<unknown>;
  swap(target: ProjectionTarget): Promise<unknown>;
  drop(target: ProjectionTarget): Promise<unknown>;
  apply(events: readonly Recorded[], context: ProjectionContext): Promise<unknown>;
}

/**
 * Defines a projection.
 *
 * Each event takes effect once: what the handler writes through `sql` commits with the checkpoint. Exactly one process
 * runs a lane at a time; a process that was paused past its lease is refused.
 *
 * @example
 * ```ts
 * const Orders = projection("orders", { on: [OrderPlaced, OrderConfirmed] }, async (events, { sql }) => {
 *   for (const { type, data } of events) {
 *     if (type === "order.placed") await sql`insert into orders ${sql({ id: data.orderId, status: "pending" })}`;
 *     else await sql`update orders set status = 'confirmed' where id = ${data.orderId}`;
 *   }
 * });
 * ```
 * @param name Names its checkpoint: another name starts from the first event again.
 * @param apply Gets a batch in the order of the store. What it throws rolls the batch back; smaller ones are tried.
 * @throws `INVALID_ARGUMENT` for options out of range.
 */
export function projection<const Events extends readonly AnyEvent[] = readonly []>(
  name: string,
  options: ProjectionOptions<Events>,
  apply: (events: readonly ProjectedOf<Events>[], context: ProjectionContext) => unknown,
): Projection {
  const { on = [], category, version = 1, batchSize = 1_000, lanes = 1, poison = "retry" } = options;
  const { transactional = true, inline = false, retry, create, swap, drop } = options;
  checkRange("version", version, 1, 1_000_000, true);
  checkRange("batchSize", batchSize, 1, 100_000, true);
  checkRange("lanes", lanes, 1, 256, true);
  if (inline && !transactional) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot define projection "${name}": inline, it is part of a transaction`,
    );
  }
  return {
    kind: "projection",
    name: checkName("projection name", name),
    events: new Map(on.map((event) => [event.type, event])),
    category: category === undefined ? undefined : checkName("category", category),
    version,
    batchSize,
    lanes,
    retry: retryPolicy(retry),
    poison,
    transactional,
    inline,
    create: async (target) => await create?.(target),
    swap: async (target) => await swap?.(target),
    drop: async (target) => await drop?.(target),
    apply: async (events, context) =>
      await apply(events as unknown as readonly ProjectedOf<Events>[], context),
  };
}
