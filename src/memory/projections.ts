/**
 * Projections in memory.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { ParkedEvent, ProjectionControl, ProjectionStore } from "../ports/projections.ts";
import type { Session } from "./session.ts";
import type { Table } from "./table.ts";

/** What there is to know about projections. */
export interface ProjectionRows {
  readonly controls: Table<ProjectionControl>;
  /** By projection, build and position. */
  readonly parked: Table<ParkedEvent>;
}

/** The projection port on a session. */
export function memoryProjections(session: Session, { controls, parked }: ProjectionRows): ProjectionStore {
  const ofBuild = (projection: string, build: number): ParkedEvent[] =>
    Array.from(parked.rows(), ([, row]) => row)
      .filter((row) => row.projection === projection && row.build === build);

  return {
    load: (name) => session.run(() => controls.get(name)),
    save: (control) =>
      session.run(() => {
        const current = controls.get(control.name)?.revision ?? 0;
        if (current !== control.revision) throw conflict(control, current);
        controls.set(session, control.name, { ...control, revision: current + 1 });
      }),
    park: (event) => session.run(() => parked.set(session, key(event), event)),
    parked: ({ projection, build, after = 0n, limit }) =>
      session.run(() =>
        ofBuild(projection, build).filter(({ position }) => position > after)
          .sort((a, b) => a.position < b.position ? -1 : 1).slice(0, limit)
      ),
    countParked: (projection, build) => session.run(() => ofBuild(projection, build).length),
    unpark: (projection, build, position) =>
      session.run(() => {
        const name = key({ projection, build, position });
        const found = parked.get(name) !== undefined;
        if (found) parked.delete(session, name);
        return found;
      }),
  };
}

function key(
  { projection, build, position }: Pick<ParkedEvent, "projection" | "build" | "position">,
): string {
  return `${projection}@${build}/${position}`;
}

function conflict({ name, revision }: ProjectionControl, current: number): MillstreamError {
  return new MillstreamError(
    "CONCURRENCY_CONFLICT",
    `Cannot save projection "${name}": expected revision ${revision}, got ${current}`,
    { details: { name, expected: revision, current } },
  );
}
