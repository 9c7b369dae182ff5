/**
 * Runs a projection in this process: keeps a worker for each lane that this process may work on, and leads a build that
 * has caught up into the place of the live one.
 *
 * While the builds are swapped, the live one stands still and the next one draws level, so that a reader never sees the
 * read model go back.
 *
 * @module
 */
import { type Loop, type LoopHealth, startLoop } from "../messaging/loop.ts";
import type { ProjectionControl } from "../ports/projections.ts";
import type { Projection } from "./projection.ts";
import {
  changeControl,
  ensureControl,
  highest,
  laneName,
  lowest,
  positionsOf,
  runnable,
  swapBuilds,
} from "./projection_control.ts";
import { type ProjectionParts, startLane } from "./projection_lane.ts";

/** How late a change made by another process is noticed. */
const POLL_MS = 1_000;

/** Runs all projections but those that run inside of appends, which are made known. */
export async function startProjections(
  parts: ProjectionParts,
  projections: ReadonlyMap<string, Projection>,
): Promise<readonly Loop[]> {
  const all = [...projections.values()];
  for (const projection of all) {
    if (projection.inline) await ensureControl(parts, projection);
  }
  return all.filter(({ inline }) => !inline).map((projection) => startProjection(parts, projection));
}

/** Runs a projection until stopped. */
export function startProjection(parts: ProjectionParts, projection: Projection): Loop {
  const { store, clock, observer } = parts;
  const { name } = projection;
  const lanes = new Map<string, Loop>();
  let known: ProjectionControl | undefined;

  const loop = startLoop({ name: `projection ${name}`, clock, observer, periodMs: 5_000 }, async (signal) => {
    const control = await ensureControl(parts, projection);
    if (signal.aborted) return 0;
    if (known && known.revision !== control.revision) observeChange(known, control);
    known = control;
    await reconcile(control);
    if (!control.next || control.next.version !== projection.version) return POLL_MS;
    return await drawLevel(control) ? 0 : POLL_MS;
  });

  /** Has a worker for each lane there is to work on, and no other. */
  async function reconcile(control: ProjectionControl): Promise<void> {
    const needed = new Map(
      runnable(control, projection).flatMap((build) =>
        Array.from(
          { length: build.lanes },
          (_, lane) => [laneName(name, build, lane), { build, lane }] as const,
        )
      ),
    );
    const over = [...lanes].filter(([lane]) => !needed.has(lane));
    for (const [lane] of over) lanes.delete(lane);
    for (const [key, { build, lane }] of needed) {
      if (!lanes.has(key)) lanes.set(key, startLane(parts, projection, build, lane));
    }
    await Promise.all(over.map(([, worker]) => worker.stop()));
  }

  /** Whether there is more to do at once. */
  async function drawLevel({ live, next, swapping }: ProjectionControl): Promise<boolean> {
    if (next?.state !== "running") return false;
    const [ofLive, ofNext] = await Promise.all([
      positionsOf(store, name, live),
      positionsOf(store, name, next),
    ]);
    const behind = highest(ofLive) - lowest(ofNext);
    if (!swapping && behind <= BigInt(projection.batchSize)) {
      await changeControl(
        store,
        name,
        (control) => control.next?.build === next.build ? { ...control, swapping: true } : control,
      );
      return true;
    }
    if (!swapping || behind > 0n) return false;
    try {
      await swapBuilds(store, projection);
    } catch (failure) {
      await changeControl(store, name, (control) => ({ ...control, swapping: false })); // let the live one go on
      throw failure;
    }
    return true;
  }

  function observeChange(before: ProjectionControl, after: ProjectionControl): void {
    const { live, next } = after;
    const state = live.build !== before.live.build ? "swapped" : live.state;
    observer({
      kind: "projection",
      projection: name,
      state,
      build: live.build,
      ...(next ? { next: next.build } : {}),
    });
  }

  return {
    health(): LoopHealth {
      const all = [loop.health(), ...Array.from(lanes.values(), (lane) => lane.health())];
      const stopped = [known?.live, known?.next].find((build) =>
        build?.version === projection.version && build.state === "stopped"
      );
      const error = stopped?.reason ?? all.find((one) => one.error !== undefined)?.error;
      return {
        name: `projection ${name}`,
        silentMs: Math.max(...all.map(({ silentMs }) => silentMs)),
        healthy: all.every(({ healthy }) => healthy) && !stopped,
        ...(error === undefined ? {} : { error }),
      };
    },
    wake() {
      loop.wake();
      for (const lane of lanes.values()) lane.wake();
    },
    async stop() {
      await loop.stop();
      await Promise.all(Array.from(lanes.values(), (lane) => lane.stop()));
    },
  };
}
