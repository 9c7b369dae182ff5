/**
 * Waiting until an application is quiet: everything that follows from what was done has been done.
 *
 * @module
 */
import { type Clock, sleep, systemClock } from "../core/clock.ts";
import { isMillstreamError } from "../core/errors.ts";
import { waitFor } from "../sourcing/caught_up.ts";
import type { Millstream } from "../app/application.ts";
import { fail } from "./assert.ts";
import type { VirtualClock } from "./virtual_clock.ts";

/** Options of {@linkcode settled}. */
export interface SettledOptions {
  /** The application's clock. A {@linkcode VirtualClock} is moved on, so that retries and timers cost no time. */
  readonly clock?: Clock | VirtualClock;
  /** How long it may take by that clock, in milliseconds. @default 30_000, on a virtual clock 3_600_000 */
  readonly withinMs?: number;
}

/**
 * Resolves when nothing is left to do: the outbox is empty, no group has messages that are ready, in flight or waiting
 * for their time, no saga is running or compensating, and every projection has seen every event. Messages that became
 * dead letters, and sagas that wait for an event, are at rest.
 *
 * Groups and sagas of the whole broker and store count, so give each test its own.
 *
 * @throws Error that says what is not quiet, when time is up.
 */
export async function settled(app: Millstream, options: SettledOptions = {}): Promise<void> {
  const { clock = systemClock } = options;
  const { withinMs = isVirtual(clock) ? 3_600_000 : 30_000 } = options;
  const until = clock.monotonic() + withinMs;
  const look = unrest(app);
  for (let calm = 0; calm < 2;) { // twice: something may be on its way from one to the other
    const reason = await (isVirtual(clock) ? onward(clock, look()) : look());
    calm = reason === undefined ? calm + 1 : 0;
    if (reason !== undefined && clock.monotonic() >= until) {
      fail(`Not settled within ${withinMs} ms: ${reason}`);
    }
    if (isVirtual(clock)) await moveOn(clock);
    else await sleep(clock, 10);
  }
}

/** Says what is still going on, if anything is. */
export function unrest(
  { store, broker, declared }: Pick<Millstream, "store" | "broker" | "declared">,
): () => Promise<string | undefined> {
  let head = 0n;

  /** The position of the newest event. */
  async function newest(): Promise<bigint> {
    for (;;) {
      const { position, events } = await store.events.readAll(head, { limit: 1_000 });
      head = position;
      if (events.length < 1_000) return head;
    }
  }

  async function look(): Promise<string | undefined> {
    const [unsent] = await store.outbox.pending(1);
    if (unsent) return `the outbox holds "${unsent.type}" for topic "${unsent.topic}"`;
    for (const { topic, group, ready, inFlight, delayed } of await broker.groups()) {
      if (ready + inFlight + delayed === 0) continue;
      return `group "${group}" on topic "${topic}" has ${ready} ready, ${inFlight} in flight, ${delayed} delayed`;
    }
    for (const status of ["running", "compensating"] as const) {
      const [saga] = await store.sagas.list({ status, limit: 1 });
      if (saga) return `saga "${saga.id}" is ${status}`;
    }
    const position = await newest();
    for (const projection of declared.projections.values()) {
      const behind = await waitFor({ store, clock: systemClock }, [projection], position, { waitMs: 0 }).then(
        () => false,
        (failure) => isMillstreamError(failure, "NOT_CAUGHT_UP") || Promise.reject(failure),
      );
      if (behind) return `projection "${projection.name}" is behind`;
    }
  }

  return () =>
    look().catch((failure) => {
      if (isMillstreamError(failure) && failure.retryable) return `the store is busy: ${failure.code}`;
      throw failure;
    });
}

/** Moves the clock on until `work` has ended: it may wait for a transaction that waits for time to pass. */
export async function onward<T>(clock: VirtualClock, work: Promise<T>): Promise<T> {
  let ended = false;
  const end = (): void => void (ended = true);
  work.then(end, end);
  await clock.advance(0);
  while (!ended) await moveOn(clock);
  return await work;
}

/** To the next timer, a second at most. */
export async function moveOn(clock: VirtualClock): Promise<void> {
  await clock.advance(Math.min(clock.nextMs ?? 10, 1_000));
}

function isVirtual(clock: Clock | VirtualClock): clock is VirtualClock {
  return "advance" in clock;
}
