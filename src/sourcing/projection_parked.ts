/**
 * Applying events that a projection has put aside, while its worker looks on.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { type Clock, sleep } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import type { Lease } from "../ports/leases.ts";
import type { ParkedEvent, ProjectionBuild } from "../ports/projections.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import type { Projection } from "./projection.ts";
import { laneName, leaseName, targetOf } from "./projection_control.ts";
import { recorded } from "./projection_events.ts";

const LEASE_MS = 30_000;
const CONFLICTS = retryPolicy({ attempts: 20, baseMs: 20, maxMs: 500 });

/** Takes each lane away from its worker, who gets it back afterwards, and applies the events one by one. */
export async function retryEvents(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  projection: Projection,
  build: ProjectionBuild,
  events: readonly ParkedEvent[],
): Promise<{ readonly applied: number; readonly failed: number }> {
  const owner = `retry-${crypto.randomUUID()}`;
  let applied = 0;
  for (const lane of new Set(events.map((event) => event.lane))) {
    const lease = await takeLane({ store, clock }, leaseName(laneName(projection.name, build, lane)), owner);
    try {
      for (const event of events) {
        if (event.lane === lane && await retryEvent({ store, clock }, projection, { build, lease, event })) {
          applied++;
        }
      }
    } finally {
      await store.leases.release(lease).catch(() => {}); // it runs out by itself
    }
  }
  return { applied, failed: events.length - applied };
}

async function takeLane(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  name: string,
  owner: string,
): Promise<Lease> {
  for (let attempt = 1; attempt <= CONFLICTS.attempts; attempt++) {
    const lease = await store.transaction(async ({ leases }) => {
      await leases.revoke(name);
      return await leases.acquire(name, owner, LEASE_MS);
    });
    if (lease) return lease;
    await sleep(clock, backoffDelay(attempt, CONFLICTS));
  }
  throw new MillstreamError("UNAVAILABLE", `Cannot take lease "${name}": its worker was faster each time`, {
    retryable: true,
  });
}

async function retryEvent(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  projection: Projection,
  { build, lease, event }: {
    readonly build: ProjectionBuild;
    readonly lease: Lease;
    readonly event: ParkedEvent;
  },
): Promise<boolean> {
  const { stream, version, position, lane } = event;
  const apply = async ({ events, sql }: Pick<StorePorts, "events" | "sql">): Promise<void> => {
    const [stored] = await events.readStream(stream, { from: version, limit: 1 });
    if (!stored) return; // it is gone, and so is the need for it
    const context = {
      ...targetOf(sql, build),
      position,
      lane,
      epoch: lease.epoch,
      signal: new AbortController().signal,
    };
    await projection.apply([await recorded(projection, stored)], context);
  };
  try {
    if (!projection.transactional) await apply(store);
    return await store.transaction(async (ports) => {
      await ports.leases.assert(lease);
      if (!await ports.projections.unpark(projection.name, build.build, position)) return false;
      if (projection.transactional) await apply(ports);
      return true;
    });
  } catch (failure) {
    if (isMillstreamError(failure) && failure.retryable) throw failure;
    const error = toError(failure).message;
    await store.projections.park({ ...event, error, attempts: event.attempts + 1, parkedAt: clock.now() });
    return false;
  }
}
