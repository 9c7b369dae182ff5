/**
 * The append with inline projections in its transaction.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { uuidv5 } from "../core/ids.ts";
import type { AppendResult, EventStore } from "../ports/event_store.ts";
import type { ProjectionControl } from "../ports/projections.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import type { Projection } from "./projection.ts";
import { ensureControl, targetOf } from "./projection_control.ts";
import { recorded, wanted } from "./projection_events.ts";

/** Appends in a transaction, and runs the projections there. */
export type InlineAppend = (
  ports: StorePorts,
  ...call: Parameters<EventStore["append"]>
) => Promise<readonly AppendResult[]>;

/** Makes the projections known, before the transaction: inside of it the store would wait for itself. */
export async function prepareInline(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  projections: readonly Projection[],
): Promise<InlineAppend> {
  const known = await Promise.all(projections.map(async (projection) => ({
    projection,
    control: await ensureControl({ store, clock }, projection),
  })));
  return (ports, ...call) => appendInline(known, ports, call);
}

async function appendInline(
  known: ReadonlyArray<{ readonly projection: Projection; readonly control: ProjectionControl }>,
  ports: StorePorts,
  call: Parameters<EventStore["append"]>,
): Promise<readonly AppendResult[]> {
  const [appends] = call;
  // An append that is repeated has had its effects. One that was committed is found here; one that is under way at
  // this moment makes the append below wait for it, and then the note in the inbox is there.
  const before = await Promise.all(
    appends.map(({ stream, events }) => events[0] && ports.events.has(stream, events[0].id)),
  );
  const results = await ports.events.append(...call);
  for (const [index, { stream, events }] of appends.entries()) {
    const note = await uuidv5(`${stream}/${events[0]!.id}`);
    if (before[index] || !await ports.inbox.record("inline", note)) continue;
    const from = results[index]!.version - events.length + 1;
    const stored = await ports.events.readStream(stream, { from, limit: events.length });
    for (const { projection, control } of known) {
      const own = stored.filter(wanted(projection));
      if (own.length === 0) continue;
      await projection.apply(await Promise.all(own.map((event) => recorded(projection, event))), {
        ...targetOf(ports.sql, control.live),
        position: own.at(-1)!.position,
        lane: 0,
        epoch: 1,
        signal: new AbortController().signal,
      });
    }
  }
  return results;
}
