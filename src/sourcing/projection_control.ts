/**
 * What processes agree on about a projection: its builds, and how one of them changes it without a worker of another
 * noticing too late. A change saves the new state and revokes the leases of all lanes in one transaction; a worker
 * reads the state after it got its lease. So no batch commits under a state that is over.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { ProjectionBuild, ProjectionControl } from "../ports/projections.ts";
import type { Sql } from "../ports/sql.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import type { Projection, ProjectionTarget } from "./projection.ts";

/** The name of a lane's checkpoint. */
export function laneName(name: string, { build, lanes }: ProjectionBuild, lane: number): string {
  const base = build === 1 ? name : `${name}@${build}`;
  return lanes === 1 ? base : `${base}/${lane}`;
}

/** The names of all lanes' checkpoints. */
export function laneNames(name: string, build: ProjectionBuild): readonly string[] {
  return Array.from({ length: build.lanes }, (_, lane) => laneName(name, build, lane));
}

/** The name of a lane's lease. */
export function leaseName(lane: string): string {
  return `projection/${lane}`;
}

/** What the hooks and the handler are told of a build. */
export function targetOf(sql: Sql, { build }: ProjectionBuild): ProjectionTarget {
  return { sql, build, suffix: build === 1 ? "" : `_${build}` };
}

/** The builds that a process with this definition works on. */
export function runnable(control: ProjectionControl, { version }: Projection): readonly ProjectionBuild[] {
  const builds = [control.swapping ? undefined : control.live, control.next];
  return builds.filter((one) => one !== undefined).filter((one) =>
    one.state === "running" && one.version === version
  );
}

/** Where the lanes of a build stand. */
export async function positionsOf(
  { checkpoints }: Pick<Store, "checkpoints">,
  name: string,
  build: ProjectionBuild,
): Promise<readonly bigint[]> {
  return await Promise.all(laneNames(name, build).map((lane) => checkpoints.load(lane)));
}

/** The lowest of some positions. */
export function lowest(positions: readonly bigint[]): bigint {
  return positions.reduce((low, one) => one < low ? one : low);
}

/** The highest of some positions. */
export function highest(positions: readonly bigint[]): bigint {
  return positions.reduce((high, one) => one > high ? one : high);
}

/** The projection's state, after making it known if it is new, or beginning a build if this version is. */
export async function ensureControl(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  projection: Projection,
): Promise<ProjectionControl> {
  const known = await store.projections.load(projection.name);
  if (known) {
    const newest = Math.max(known.live.version, known.next?.version ?? 0);
    if (projection.version <= newest || projection.inline) return known;
    return await beginBuild(store, projection, clock.now());
  }
  const live = newBuild(projection, 1, clock.now());
  try {
    return await store.transaction(async (ports) => {
      await ports.projections.save({ name: projection.name, revision: 0, live, swapping: false });
      await projection.create(targetOf(ports.sql, live));
      await projection.swap(targetOf(ports.sql, live));
      return { name: projection.name, revision: 1, live, swapping: false };
    });
  } catch (failure) {
    const other = await store.projections.load(projection.name);
    if (other) return other; // another process was faster
    throw failure;
  }
}

/** Begins to build the read model anew, beside the live one. A build of an older version that is under way is called off. */
export async function beginBuild(
  store: Store,
  projection: Projection,
  now: number,
): Promise<ProjectionControl> {
  return await changeControl(store, projection.name, (control) => {
    if (control.next && control.next.version >= projection.version) return control;
    const next = newBuild(projection, (control.next ?? control.live).build + 1, now);
    return { ...control, next, swapping: false };
  }, async (ports, before, after) => {
    if (before.next) await discard(ports, projection, before.next);
    if (after.next) await projection.create(targetOf(ports.sql, after.next));
  });
}

/** Makes the next build the live one. */
export async function swapBuilds(store: Store, projection: Projection): Promise<ProjectionControl> {
  return await changeControl(store, projection.name, (control) => {
    const { next, ...rest } = control;
    return next && control.swapping ? { ...rest, live: next, swapping: false } : control;
  }, async (ports, before, after) => {
    await projection.swap(targetOf(ports.sql, after.live));
    await discard(ports, projection, before.live);
  });
}

/** Calls off the next build. */
export async function cancelBuild(store: Store, projection: Projection): Promise<ProjectionControl> {
  return await changeControl(store, projection.name, (control) => {
    const { next, ...rest } = control;
    return next ? { ...rest, swapping: false } : control;
  }, async (ports, before) => {
    if (before.next) await discard(ports, projection, before.next);
  });
}

/**
 * Changes the state, and takes their leases from all who work under the old one. `change` returns what it got if there
 * is nothing to change; `also` runs in the same transaction.
 *
 * @throws `NOT_FOUND` if the projection never ran.
 */
export async function changeControl(
  store: Store,
  name: string,
  change: (control: ProjectionControl) => ProjectionControl,
  also: (ports: StorePorts, before: ProjectionControl, after: ProjectionControl) => Promise<void> =
    async () => {},
): Promise<ProjectionControl> {
  for (let attempt = 1;; attempt++) {
    try {
      return await store.transaction(async (ports) => {
        const before = await ports.projections.load(name);
        if (!before) throw unknownProjection(name);
        const after = change(before);
        if (after === before) return before;
        await ports.projections.save(after);
        for (const build of [before.live, before.next]) {
          for (const lane of build ? laneNames(name, build) : []) await ports.leases.revoke(leaseName(lane));
        }
        await also(ports, before, after);
        return { ...after, revision: after.revision + 1 };
      });
    } catch (failure) {
      if (!isMillstreamError(failure, "CONCURRENCY_CONFLICT") || attempt >= 20) throw failure;
    }
  }
}

/** The error for a projection that never ran. */
export function unknownProjection(name: string): MillstreamError {
  return new MillstreamError("NOT_FOUND", `Cannot find projection "${name}": it never ran`, {
    details: { projection: name },
  });
}

function newBuild({ version, lanes }: Projection, build: number, now: number): ProjectionBuild {
  return { build, version, lanes, state: "running", startedAt: now };
}

async function discard(ports: StorePorts, projection: Projection, build: ProjectionBuild): Promise<void> {
  const { name } = projection;
  await projection.drop(targetOf(ports.sql, build));
  for (const lane of laneNames(name, build)) await ports.checkpoints.remove(lane);
  for (;;) {
    const parked = await ports.projections.parked({ projection: name, build: build.build, limit: 1_000 });
    if (parked.length === 0) return;
    for (const { position } of parked) await ports.projections.unpark(name, build.build, position);
  }
}
