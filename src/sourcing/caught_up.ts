/**
 * Reading one's own writes: waiting until projections have seen a position.
 *
 * @module
 */
import { type Clock, sleep } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Store } from "../ports/store.ts";
import type { Projection } from "./projection.ts";
import { lowest, positionsOf } from "./projection_control.ts";
import { selectionOf } from "./projection_events.ts";

/**
 * Waits until all `projections` have seen `position`, or there is nothing for them up to there. Inline ones always have.
 *
 * @throws `NOT_CAUGHT_UP` after `waitMs`, with how far each one is.
 */
export async function waitFor(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  projections: readonly Projection[],
  position: bigint,
  options: { readonly waitMs: number; readonly signal?: AbortSignal },
): Promise<void> {
  const until = clock.monotonic() + options.waitMs;
  let behind = projections.filter(({ inline }) => !inline);
  for (let pauseMs = 2;; pauseMs = Math.min(pauseMs * 1.5, 100)) {
    const reached = await Promise.all(behind.map((one) => hasReached(store, one, position)));
    behind = behind.filter((_, at) => !reached[at]);
    if (behind.length === 0) return;
    if (clock.monotonic() >= until) throw notCaughtUp(behind, position, options.waitMs);
    await sleep(clock, pauseMs, options.signal);
  }
}

/** Where the read model stands that queries read from: its slowest lane. */
export async function positionOf(store: Store, projection: Projection): Promise<bigint> {
  const { name, version, lanes } = projection;
  const first = { build: 1, version, lanes, state: "running" as const, startedAt: 0 };
  // Most projections were never rebuilt: asked for together, both answers come in one round trip.
  const [control, guess] = await Promise.all([
    store.projections.load(name),
    positionsOf(store, name, first),
  ]);
  if (!control || (control.live.build === 1 && control.live.lanes === lanes)) return lowest(guess);
  return lowest(await positionsOf(store, name, control.live));
}

async function hasReached(store: Store, projection: Projection, position: bigint): Promise<boolean> {
  const reached = await positionOf(store, projection);
  if (reached >= position) return true;
  // Its checkpoint passes events of other types only now and then.
  const page = await store.events.readAll(reached, { ...selectionOf(projection), limit: 1 });
  const [next] = page.events;
  return page.position >= position && (!next || next.position > position);
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
