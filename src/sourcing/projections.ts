/**
 * Operating projections: how they are doing, pausing, rebuilding, and the events they have put aside.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Abortable, Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { parseToken } from "../core/token.ts";
import type { ParkedEvent, ProjectionBuild, ProjectionControl } from "../ports/projections.ts";
import type { Store } from "../ports/store.ts";
import { positionOf, waitFor } from "./caught_up.ts";
import type { Projection } from "./projection.ts";
import {
  beginBuild,
  cancelBuild,
  changeControl,
  ensureControl,
  lowest,
  positionsOf,
  targetOf,
  unknownProjection,
} from "./projection_control.ts";
import { recorded, selectionOf } from "./projection_events.ts";
import { retryEvents } from "./projection_parked.ts";

/** How a projection is doing. */
export interface ProjectionStatus {
  readonly name: string;
  /** `stopped` by an event it could not apply; `inline` ones run inside of appends. */
  readonly state: "running" | "paused" | "stopped" | "inline";
  /** Why it was stopped. */
  readonly reason?: string;
  /** The build that queries read from. */
  readonly build: number;
  readonly suffix: string;
  readonly lanes: number;
  /** Everything up to here is in the read model. */
  readonly position: bigint;
  /** How many positions of the store lie behind that, also those of events it does not take. 0 if it has all of its own. */
  readonly lag: bigint;
  /** How long ago the oldest event happened that is not in the read model, in milliseconds by the event's own time. 0 if there is none. */
  readonly lagMs: number;
  /** How many events it has put aside. */
  readonly parked: number;
  /** The build that will replace the live one. */
  readonly rebuild?: {
    readonly build: number;
    readonly state: "running" | "paused" | "stopped";
    readonly reason?: string;
    readonly position: bigint;
    /** From 0 to 1, of the positions there are now. */
    readonly progress: number;
  };
}

/** The projections of an application. */
export interface Projections {
  /** How all of them are doing. */
  list(): Promise<readonly ProjectionStatus[]>;
  /** Stops working on it, in all processes. When it resolves, no further batch commits. */
  pause(name: string): Promise<void>;
  /** Goes on after {@linkcode Projections.pause}, or after an event stopped it. */
  resume(name: string): Promise<void>;
  /**
   * Builds it anew from the first event, beside the live build, and then puts it in its place. Resolves when that has
   * begun; {@linkcode Projections.list} tells how far it is. The handler gets another `suffix`.
   *
   * @returns the number of the build.
   * @throws `UNSUPPORTED` for inline projections.
   */
  rebuild(name: string): Promise<number>;
  /** Calls off a rebuild. */
  cancelRebuild(name: string): Promise<void>;
  /** The events that the live build has put aside, in order of position. */
  parked(
    name: string,
    options?: { readonly after?: bigint; readonly limit?: number },
  ): Promise<readonly ParkedEvent[]>;
  /**
   * Applies events that were put aside, in their order: one, or up to 1,000 of them. Meanwhile it works on no other
   * event of their lane.
   */
  retryParked(
    name: string,
    options?: { readonly position?: bigint },
  ): Promise<{ readonly applied: number; readonly failed: number }>;
  /** Forgets an event that was put aside. False if there is none at this position. */
  discardParked(name: string, position: bigint): Promise<boolean>;
  /**
   * Waits until they have seen a position: a token, or what `dispatch` returned.
   *
   * @throws `NOT_CAUGHT_UP` after `waitMs`.
   */
  waitFor(
    after: string | { readonly position?: string },
    options?: Abortable & { readonly names?: readonly string[]; readonly waitMs?: number },
  ): Promise<void>;
}

/** Operates the projections of one application. */
export function operateProjections(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  registered: ReadonlyMap<string, Projection>,
): Projections {
  function find(name: string): Projection {
    const projection = registered.get(name);
    if (projection) return projection;
    throw unknownProjection(name);
  }

  async function change(name: string, state: "running" | "paused"): Promise<void> {
    const projection = find(name);
    await ensureControl({ store, clock }, projection);
    const set = ({ reason: _, ...build }: ProjectionBuild): ProjectionBuild => ({ ...build, state });
    await changeControl(store, name, ({ next, ...control }) => ({
      ...control,
      live: set(control.live),
      ...(next ? { next: set(next) } : {}),
      swapping: false,
    }));
  }

  async function live(name: string): Promise<ProjectionControl> {
    return await ensureControl({ store, clock }, find(name));
  }

  async function status(projection: Projection, head: bigint): Promise<ProjectionStatus> {
    const { name } = projection;
    const { live, next } = await ensureControl({ store, clock }, projection);
    const position = projection.inline ? head : await positionOf(store, projection);
    const parked = await store.projections.countParked(name, live.build);
    const { events } = await store.events.readAll(position, { ...selectionOf(projection), limit: 1 });
    const [waiting] = projection.inline ? [] : events;
    const since = waiting ? (await recorded({ ...projection, events: new Map() }, waiting)).time : undefined;
    const nextAt = next && lowest(await positionsOf(store, name, next));
    return {
      name,
      state: projection.inline ? "inline" : live.state,
      ...(live.reason === undefined ? {} : { reason: live.reason }),
      build: live.build,
      suffix: targetOf(store.sql, live).suffix,
      lanes: live.lanes,
      position,
      lag: waiting && head > position ? head - position : 0n,
      lagMs: since === undefined ? 0 : Math.max(0, clock.now() - Date.parse(since)),
      parked,
      ...(next && nextAt !== undefined
        ? {
          rebuild: {
            build: next.build,
            state: next.state,
            ...(next.reason === undefined ? {} : { reason: next.reason }),
            position: nextAt,
            progress: head === 0n ? 1 : Math.min(1, Number(nextAt) / Number(head)),
          },
        }
        : {}),
    };
  }

  return {
    async list() {
      const head = await store.events.head();
      return await Promise.all(Array.from(registered.values(), (projection) => status(projection, head)));
    },
    pause: (name) => change(name, "paused"),
    resume: (name) => change(name, "running"),
    async rebuild(name) {
      const projection = find(name);
      if (projection.inline) throw inlineRebuild(name);
      await live(name);
      const { next } = await beginBuild(store, projection, clock.now());
      return next!.build;
    },
    async cancelRebuild(name) {
      await live(name);
      await cancelBuild(store, find(name));
    },
    async parked(name, { after = 0n, limit = 100 } = {}) {
      checkRange("limit", limit, 1, 10_000, true);
      const { build } = (await live(name)).live;
      return await store.projections.parked({ projection: name, build, after, limit });
    },
    async retryParked(name, { position } = {}) {
      const control = await live(name);
      const filter = position === undefined
        ? { after: 0n, limit: 1_000 }
        : { after: position - 1n, limit: 1 };
      const { build } = control.live;
      const found = await store.projections.parked({ projection: name, build, ...filter });
      const events = found.filter((one) => position === undefined || one.position === position);
      return await retryEvents({ store, clock }, find(name), control.live, events);
    },
    async discardParked(name, position) {
      return await store.projections.unpark(name, (await live(name)).live.build, position);
    },
    async waitFor(after, { names = [...registered.keys()], waitMs = 5_000, signal } = {}) {
      const token = typeof after === "object" ? after.position : after;
      if (token === undefined) return;
      const options = signal ? { waitMs, signal } : { waitMs };
      await waitFor({ store, clock }, names.map(find), parseToken(token), options);
    },
  };
}

function inlineRebuild(name: string): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    `Cannot rebuild projection "${name}": it runs inside of appends`,
  );
}
