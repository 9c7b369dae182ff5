/**
 * Which events a projection reads, and how they become what its handler gets.
 *
 * @module
 */
import { decodeStored } from "../core/codec.ts";
import { upgrade } from "../core/definition.ts";
import type { Recorded } from "../core/message.ts";
import type { AllReadOptions, StoredEvent } from "../ports/event_store.ts";
import type { ProjectionBuild } from "../ports/projections.ts";
import type { Projection } from "./projection.ts";

/** What a lane asks the store for. */
export function filterOf(
  projection: Projection,
  { lanes }: ProjectionBuild,
  lane: number,
): Pick<AllReadOptions, "types" | "category" | "lane"> {
  return { ...selectionOf(projection), ...(lanes > 1 ? { lane: { index: lane, of: lanes } } : {}) };
}

/** The types and the category a projection takes, if not all. */
export function selectionOf({ events, category }: Projection): Pick<AllReadOptions, "types" | "category"> {
  return {
    ...(events.size > 0 ? { types: [...events.keys()] } : {}),
    ...(category === undefined ? {} : { category }),
  };
}

/** Whether a projection takes an event. */
export function wanted({ category, events }: Projection): (event: StoredEvent) => boolean {
  return ({ stream, type }) =>
    (category === undefined || stream.startsWith(`${category}-`)) && (events.size === 0 || events.has(type));
}

/** As many events from the beginning as can be read, and why the next one cannot. */
export async function readable(
  projection: Projection,
  batch: readonly StoredEvent[],
): Promise<{ readonly events: readonly Recorded[]; readonly failure?: unknown }> {
  const events: Recorded[] = [];
  try {
    for (const stored of batch) events.push(await recorded(projection, stored));
    return { events };
  } catch (failure) {
    return { events, failure };
  }
}

/** An event of the store, brought to the current version of its schema where the projection defines it. */
export async function recorded({ events }: Projection, stored: StoredEvent): Promise<Recorded> {
  const { stream, version, position, type, body } = stored;
  const definition = events.get(type);
  const message = decodeStored(body);
  return { ...(definition ? await upgrade(definition, message) : message), stream, version, position };
}
