/**
 * Inline projections: part of the transaction of each append.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { EventStore } from "../ports/event_store.ts";
import type { Store, StorePorts } from "../ports/store.ts";
import type { InlineAppend } from "./inline_append.ts";
import type { Projection } from "./projection.ts";

/**
 * The store, with appends that run those of the projections that are inline in their own transaction. An append that
 * one of them fails is not made, and fails with the projection's failure. Without inline projections it is the store.
 */
export function withInline(store: Store, clock: Clock, projections: ReadonlyMap<string, Projection>): Store {
  const inline = (): readonly Projection[] => Array.from(projections.values()).filter(({ inline }) => inline);
  let prepared: { readonly count: number; readonly append: Promise<InlineAppend> } | undefined;

  async function prepare(): Promise<InlineAppend> {
    const projections = inline();
    if (prepared?.count !== projections.length) {
      // Loaded on demand: most applications have none.
      const append = import("./inline_append.ts").then((module) =>
        module.prepareInline({ store, clock }, projections)
      );
      append.catch(() => prepared = undefined); // the next append tries again
      prepared = { count: projections.length, append };
    }
    return await prepared.append;
  }

  const events: Partial<EventStore> = {
    async append(...call) {
      if (inline().length === 0) return await store.events.append(...call);
      const append = await prepare();
      return await store.transaction((ports) => append(ports, ...call));
    },
  };
  const own: Partial<Store> = {
    events: over(store.events, events),
    async transaction<T>(work: (ports: StorePorts) => Promise<T>): Promise<T> {
      if (inline().length === 0) return await store.transaction(work);
      const append = await prepare();
      return await store.transaction((ports) => {
        const inside = over(ports.events, { append: (...call) => append(ports, ...call) });
        return work({ ...ports, events: inside });
      });
    },
  };
  return over(store, own);
}

/** An object with some members replaced. The original may be one that answers for members it does not list. */
function over<T extends object>(original: T, members: Partial<T>): T {
  return Object.assign(Object.create(original), members);
}
