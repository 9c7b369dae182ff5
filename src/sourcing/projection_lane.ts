/**
 * One lane of one build of a projection: whoever holds its lease reads page after page, and applies batch after batch.
 *
 * A batch that fails is halved until one event is left that fails alone; that one is tried again after a pause, and in
 * the end parked, or the projection stopped, as its definition says. Failures of the store itself count as nobody's.
 *
 * @module
 */
import { backoffDelay } from "../core/backoff.ts";
import { type Clock, sleep } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import type { Random } from "../core/ids.ts";
import type { Recorded } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import { type Loop, type LoopHealth, startLoop } from "../messaging/loop.ts";
import type { AllPage, StoredEvent } from "../ports/event_store.ts";
import type { Lease } from "../ports/leases.ts";
import type { ProjectionBuild } from "../ports/projections.ts";
import type { Sql } from "../ports/sql.ts";
import type { Store } from "../ports/store.ts";
import type { Projection } from "./projection.ts";
import { changeControl, laneName, leaseName, runnable, targetOf } from "./projection_control.ts";
import { filterOf, readable } from "./projection_events.ts";

/** What running projections needs. */
export interface ProjectionParts {
  readonly store: Store;
  readonly clock: Clock;
  readonly observer: Observer;
  /** Tells this process from the others. */
  readonly owner: string;
  readonly random?: Random;
}

/** How long a lane of a process that died stays unattended, at most, besides the pause below. */
const LEASE_MS = 5_000;
const RENEW_MS = LEASE_MS / 3;
/** Between two tries to get a lane that somebody else has, and the longest wait for events. */
const WAIT_MS = 1_000;

/** A lane in hand. */
interface Held {
  readonly lease: Lease;
  renewAt: number;
  /** Where its checkpoint stands. */
  position: bigint;
  /** Events that were read and not yet applied, and how far that reading got. */
  queue: readonly StoredEvent[];
  readTo: bigint;
  /** The page after those, on its way. */
  ahead: Promise<AllPage | undefined> | undefined;
}

/** An event that fails alone. */
interface Trouble {
  readonly position: bigint;
  readonly attempts: number;
  readonly error: Error;
  readonly nextTry: number;
}

/** Works on a lane until stopped. */
export function startLane(
  parts: ProjectionParts,
  projection: Projection,
  build: ProjectionBuild,
  lane: number,
): Loop {
  const { store, clock, observer, owner, random } = parts;
  const checkpoint = laneName(projection.name, build, lane);
  const filter = filterOf(projection, build, lane);
  let held: Held | undefined;
  let last: Lease | undefined;
  let size = projection.batchSize;
  let trouble: Trouble | undefined;

  const name = `projection ${checkpoint}`;
  const loop = startLoop({ name, clock, observer, periodMs: 5_000 }, async (signal) => {
    try {
      held ??= await take();
      if (!held) return WAIT_MS;
      if (clock.monotonic() >= held.renewAt) await renew(held);
      const pauseMs = (trouble?.nextTry ?? 0) - clock.monotonic();
      if (pauseMs > 0) return Math.min(pauseMs, RENEW_MS);
      return await step(held, signal);
    } catch (failure) {
      // After a failure nobody knows where the checkpoint stands: it is loaded again.
      held = undefined;
      if (!isMillstreamError(failure, "LEASE_LOST")) throw failure;
      observer({ kind: "lease-lost", what: "projection", id: checkpoint });
      return 10;
    }
  });

  /** The lease first, and then what it is for: a change that was made before it was taken is seen. */
  async function take(): Promise<Held | undefined> {
    const lease = await store.leases.acquire(leaseName(checkpoint), owner, LEASE_MS);
    if (!lease) return undefined;
    last = lease;
    const control = await store.projections.load(projection.name);
    if (!control || !runnable(control, projection).some((one) => one.build === build.build)) {
      await store.leases.release(lease);
      return undefined;
    }
    const position = await store.checkpoints.load(checkpoint);
    const renewAt = clock.monotonic() + RENEW_MS;
    return { lease, renewAt, position, queue: [], readTo: position, ahead: undefined };
  }

  async function renew(mine: Held): Promise<void> {
    if (!await store.leases.renew(mine.lease, LEASE_MS)) {
      throw new MillstreamError(
        "LEASE_LOST",
        `Cannot go on with projection "${checkpoint}": its lease was lost`,
      );
    }
    mine.renewAt = clock.monotonic() + RENEW_MS;
  }

  /** Applies the next batch, reading one if there is none. */
  async function step(mine: Held, signal: AbortSignal): Promise<number> {
    if (mine.queue.length === 0) {
      const page = await mine.ahead ?? await read(mine.readTo, { waitMs: WAIT_MS, signal });
      mine.ahead = undefined;
      mine.queue = page.events;
      mine.readTo = page.position;
      // A full page: more is waiting, and can be read while this one is applied.
      if (page.events.length === projection.batchSize) mine.ahead = ahead(mine.readTo, signal);
    }
    const batch = mine.queue.slice(0, size);
    const { events, failure } = await readable(projection, batch);
    if (batch.length > 0 && events.length === 0) return await fail(mine, batch[0]!, failure, true);
    const rest = mine.queue.slice(events.length);
    const to = rest.length > 0 ? batch[events.length - 1]!.position : mine.readTo;
    if (to <= mine.position) return 0;
    const problem = await apply(mine, events, { to, signal });
    if (problem && events.length > 1) {
      size = Math.ceil(events.length / 2);
      return 0;
    }
    if (problem) return await fail(mine, batch[0]!, problem.failure, false);
    mine.queue = rest;
    size = Math.min(size * 2, projection.batchSize);
    if (events.length === 0) return 0;
    trouble = undefined;
    observer({ kind: "projected", projection: projection.name, count: events.length, position: to });
    return 0;
  }

  function read(
    after: bigint,
    options: { readonly waitMs: number; readonly signal: AbortSignal },
  ): Promise<AllPage> {
    return store.events.readAll(after, { ...filter, ...options, limit: projection.batchSize });
  }

  /** A failure here is met again where the page is needed. */
  function ahead(after: bigint, signal: AbortSignal): Promise<AllPage | undefined> {
    return read(after, { waitMs: 0, signal }).then(
      (page) => page.position > after ? page : undefined,
      () => undefined,
    );
  }

  /** Applies a batch and moves the checkpoint. Returns the failure if it is the handler's, and not the store's. */
  async function apply(
    mine: Held,
    events: readonly Recorded[],
    { to, signal }: { readonly to: bigint; readonly signal: AbortSignal },
  ): Promise<{ readonly failure: unknown } | undefined> {
    let problem: { readonly failure: unknown } | undefined;
    const handle = async (sql: Sql, signal: AbortSignal): Promise<void> => {
      if (events.length === 0) return;
      try {
        await projection.apply(events, context(mine, sql, to, signal));
      } catch (failure) {
        problem = { failure };
        throw failure;
      }
      signal.throwIfAborted(); // it may have resolved because it was told to stop
    };
    try {
      if (!projection.transactional) await whileHeld(mine, signal, (own) => handle(store.sql, own));
      await store.transaction(async (ports) => {
        await ports.leases.assert(mine.lease);
        if (projection.transactional) await handle(ports.sql, signal);
        await ports.checkpoints.advance(checkpoint, mine.position, to);
      });
      mine.position = to;
      return undefined;
    } catch (failure) {
      if (signal.aborted || !problem || isNobodys(failure)) throw failure;
      return problem;
    }
  }

  function context(
    { lease }: Held,
    sql: Sql,
    position: bigint,
    signal: AbortSignal,
  ): Parameters<Projection["apply"]>[1] {
    return { ...targetOf(sql, build), position, lane, epoch: lease.epoch, signal };
  }

  /** Keeps the lease while the work lasts, however long; loses the work when the lease is lost. */
  async function whileHeld(
    mine: Held,
    stopping: AbortSignal,
    work: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const own = new AbortController();
    const done = new AbortController();
    const onStop = (): void => own.abort(stopping.reason);
    stopping.addEventListener("abort", onStop, { once: true });
    const keeping = (async () => {
      for (;;) {
        await sleep(clock, RENEW_MS, done.signal);
        await renew(mine);
      }
    })().catch((failure) => {
      if (!done.signal.aborted) own.abort(failure);
    });
    try {
      await work(own.signal);
    } catch (failure) {
      throw isMillstreamError(own.signal.reason, "LEASE_LOST") ? own.signal.reason : failure;
    } finally {
      stopping.removeEventListener("abort", onStop);
      done.abort();
      await keeping;
    }
  }

  /** Notes that an event failed alone, and does with it what the definition says. */
  async function fail(
    mine: Held,
    event: StoredEvent,
    failure: unknown,
    isUnreadable: boolean,
  ): Promise<number> {
    const { retry, poison } = projection;
    const error = toError(failure);
    const attempts = trouble?.position === event.position ? trouble.attempts + 1 : 1;
    if (poison === "retry" || (attempts < retry.attempts && !isUnreadable)) {
      const delayMs = Math.max(10, backoffDelay(attempts, retry, random));
      trouble = { position: event.position, attempts, error, nextTry: clock.monotonic() + delayMs };
      observer({ kind: "loop-failed", loop: name, error });
      return Math.min(delayMs, RENEW_MS);
    }
    if (poison === "park") await park(mine, event, error, attempts);
    else await stopBuild(event, error);
    return 0;
  }

  async function park(mine: Held, event: StoredEvent, error: Error, attempts: number): Promise<void> {
    const { position, stream, version, id, type } = event;
    const rest = mine.queue.slice(1);
    const to = rest.length > 0 ? position : mine.readTo;
    await store.transaction(async (ports) => {
      await ports.leases.assert(mine.lease);
      await ports.projections.park({
        projection: projection.name,
        build: build.build,
        lane,
        position,
        stream,
        version,
        id,
        type,
        error: error.message,
        attempts,
        parkedAt: clock.now(),
      });
      await ports.checkpoints.advance(checkpoint, mine.position, to);
    });
    mine.position = to;
    mine.queue = rest;
    trouble = undefined;
    observer({ kind: "parked", projection: projection.name, position, stream, id, error });
  }

  async function stopBuild({ type, stream, version }: StoredEvent, error: Error): Promise<void> {
    const reason = `event "${type}" (version ${version} of stream "${stream}"): ${error.message}`;
    const stopped = (one: ProjectionBuild): ProjectionBuild =>
      one.build === build.build ? { ...one, state: "stopped", reason } : one;
    await changeControl(store, projection.name, (control) => ({
      ...control,
      live: stopped(control.live),
      ...(control.next ? { next: stopped(control.next) } : {}),
      swapping: false,
    }));
    held = undefined; // its lease was revoked with the others
    trouble = undefined;
    observer({ kind: "loop-failed", loop: name, error });
  }

  return {
    ...loop,
    health(): LoopHealth {
      const health = loop.health();
      if (!trouble) return health;
      return { ...health, healthy: health.healthy && trouble.attempts < 3, error: trouble.error.message };
    },
    async stop() {
      await loop.stop();
      if (last) await store.leases.release(last).catch(() => {}); // it runs out by itself
    },
  };
}

/** Whether a failure says nothing about the event: the store, the lease or the process is in trouble. */
function isNobodys(failure: unknown): boolean {
  return isMillstreamError(failure) &&
    (failure.retryable || ["LEASE_LOST", "CLOSED", "ABORTED"].includes(failure.code));
}
