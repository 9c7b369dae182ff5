/**
 * Projections: read models built from the events of the whole store. State and checkpoint commit in one transaction,
 * so each event takes effect once; a lease lets exactly one process run a projection, and fences the others out.
 *
 * @module
 */
import { type Clock, sleep } from "../core/clock.ts";
import { decodeMessage, NO_LIMITS } from "../core/codec.ts";
import { type AnyEvent, type DataOf, upgrade } from "../core/definition.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Recorded } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Observer } from "../core/observer.ts";
import type { StoredEvent } from "../ports/event_store.ts";
import type { Lease } from "../ports/leases.ts";
import type { Sql } from "../ports/sql.ts";
import type { Store } from "../ports/store.ts";
import { type Loop, startLoop } from "../messaging/loop.ts";

/** An event as a projection gets it: a union to switch on by `type`. */
export type ProjectedEvent<E extends AnyEvent> = E extends AnyEvent
  ? Recorded<DataOf<E>> & { readonly type: E["type"] }
  : never;

/** Context of a projection's handler. */
export interface ProjectionContext {
  /** SQL in the transaction that also moves the checkpoint. */
  readonly sql: Sql;
}

/** A projection. */
export interface Projection {
  readonly kind: "projection";
  readonly name: string;
  readonly events: ReadonlyMap<string, AnyEvent>;
  readonly batchSize: number;
  apply(events: readonly Recorded[], context: ProjectionContext): Promise<unknown>;
}

/** Options of {@linkcode projection}. */
export interface ProjectionOptions<Events extends readonly AnyEvent[]> {
  /** The events it is built from. */
  readonly on: Events;
  /** At most this many events in one transaction. @default 500 */
  readonly batchSize?: number;
}

/**
 * Defines a projection.
 *
 * @param name Names its checkpoint: another name starts from the first event again.
 * @param apply Gets a batch in the order of the store. What it throws rolls the batch back; it comes again.
 */
export function projection<const Events extends readonly AnyEvent[]>(
  name: string,
  options: ProjectionOptions<Events>,
  apply: (events: readonly ProjectedEvent<Events[number]>[], context: ProjectionContext) => unknown,
): Projection {
  return {
    kind: "projection",
    name: checkName("projection name", name),
    events: new Map(options.on.map((event) => [event.type, event])),
    batchSize: options.batchSize ?? 500,
    apply: async (events, context) =>
      await apply(events as readonly ProjectedEvent<Events[number]>[], context),
  };
}

/** What running projections needs. */
export interface ProjectionParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Tells this process from the others. */
  readonly owner: string;
}

const LEASE_MS = 10_000;
const WAIT_MS = 1_000;

/** Runs a projection until stopped: when it holds the lease, batch after batch. */
export function startProjection(
  { store, clock, observer, owner }: ProjectionParts,
  projection: Projection,
): Loop {
  const leaseName = `projection/${projection.name}`;
  const types = [...projection.events.keys()];
  let lease: Lease | undefined;

  const loop = startLoop(
    { name: `projection ${projection.name}`, clock, observer, periodMs: 5_000 },
    async (signal) => {
      lease = await store.leases.acquire(leaseName, owner, LEASE_MS);
      if (!lease) return WAIT_MS;
      const held = lease;
      const from = await store.checkpoints.load(projection.name);
      const page = await store.events.readAll(from, {
        limit: projection.batchSize,
        types,
        waitMs: WAIT_MS,
        signal,
      });
      if (page.position <= from) return 0;
      const events = await Promise.all(page.events.map((stored) => recorded(projection, stored)));
      await store.transaction(async (ports) => {
        await ports.leases.assert(held);
        if (events.length > 0) await projection.apply(events, { sql: ports.sql });
        await ports.checkpoints.advance(projection.name, from, page.position);
      });
      if (events.length > 0) {
        observer({
          kind: "projected",
          projection: projection.name,
          count: events.length,
          position: page.position,
        });
      }
      return 0;
    },
  );

  return {
    ...loop,
    async stop() {
      await loop.stop();
      if (lease) await store.leases.release(lease).catch(() => {}); // it runs out by itself
    },
  };
}

async function recorded(projection: Projection, stored: StoredEvent): Promise<Recorded> {
  const { stream, version, position, type, body } = stored;
  const message = await upgrade(projection.events.get(type)!, decodeMessage(body, NO_LIMITS));
  return { ...message, stream, version, position };
}

/**
 * Waits until all `projections` have seen `position`.
 *
 * @throws `NOT_CAUGHT_UP` after `waitMs`, with how far each one is.
 */
export async function waitFor(
  { store, clock }: Pick<ProjectionParts, "store" | "clock">,
  projections: readonly Projection[],
  position: bigint,
  options: { readonly waitMs: number; readonly signal?: AbortSignal },
): Promise<void> {
  const until = clock.monotonic() + options.waitMs;
  let behind = [...projections];
  for (let pauseMs = 2;; pauseMs = Math.min(pauseMs * 1.5, 100)) {
    const reached = await Promise.all(behind.map(({ name }) => store.checkpoints.load(name)));
    behind = behind.filter((_, at) => reached[at]! < position);
    if (behind.length === 0) return;
    if (clock.monotonic() >= until) throw notCaughtUp(behind, position, options.waitMs);
    await sleep(clock, pauseMs, options.signal);
  }
}

function notCaughtUp(behind: readonly Projection[], position: bigint, waitMs: number): MillstreamError {
  const names = behind.map(({ name }) => name).join(", ");
  return new MillstreamError(
    "NOT_CAUGHT_UP",
    `Cannot answer yet: ${names} did not reach position ${position} within ${waitMs} ms`,
    {
      details: { projections: behind.map(({ name }) => name), position: position.toString() },
    },
  );
}
