/** Projections in memory and in virtual time. */
import * as v from "valibot";
import { event } from "../../src/core/definition.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Loop } from "../../src/messaging/loop.ts";
import type { Store } from "../../src/ports/store.ts";
import type { Projection } from "../../src/sourcing/projection.ts";
import { startProjection } from "../../src/sourcing/projection_runner.ts";
import { operateProjections, type Projections } from "../../src/sourcing/projections.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";

export const Counted = event("counted", v.object({ n: v.number() }));
export const Other = event("other", v.object({}));

/** One process, or several, on one store. */
export interface Stage {
  readonly clock: VirtualClock;
  readonly store: Store;
  readonly seen: Observation[];
  /** Appends numbers to a stream. Returns the position of the last. */
  append(stream: string, ...numbers: readonly unknown[]): Promise<bigint>;
  appendOther(stream: string): Promise<bigint>;
  run(projection: Projection, owner?: string, store?: Store): Loop;
  operate(...projections: readonly Projection[]): Projections;
}

/** An empty store. Chance always says one half. */
export function stage(): Stage {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const seen: Observation[] = [];
  let count = 0;

  async function append(stream: string, events: readonly { type: string; data: unknown }[]): Promise<bigint> {
    const [result] = await store.events.append([{
      stream,
      expected: "any",
      events: events.map(({ type, data }) => {
        const id = `e-${++count}`;
        const time = new Date(clock.now()).toISOString();
        return { id, type, body: JSON.stringify({ specversion: "1.0", id, source: "s", type, time, data }) };
      }),
    }]);
    return result!.position;
  }

  return {
    clock,
    store,
    seen,
    append: (stream, ...numbers) => append(stream, numbers.map((n) => ({ type: "counted", data: { n } }))),
    appendOther: (stream) => append(stream, [{ type: "other", data: {} }]),
    run: (projection, owner = "p1", on = store) =>
      startProjection(
        { store: on, clock, observer: (one) => void seen.push(one), owner, random: () => 0.5 },
        projection,
      ),
    operate: (...projections) =>
      operateProjections({ store, clock }, new Map(projections.map((one) => [one.name, one]))),
  };
}
