/** Applications in memory and in virtual time, with brokers that can be told to misbehave. */
import * as v from "valibot";
import type { Millstream } from "../../src/app/application.ts";
import { millstream, type MillstreamOptions } from "../../src/app/millstream.ts";
import { event } from "../../src/core/definition.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import type { Broker, Delivery, Subscription } from "../../src/ports/broker.ts";
import type { Store } from "../../src/ports/store.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";
import { eventually } from "../support/wait.ts";

export const Ping = event("ping.sent", v.object({ n: v.number() }));
export const Keyed = event("ping.keyed", v.object({ n: v.number(), key: v.string() }), {
  key: ({ key }) => key,
});
export const Pong = event("pong.sent", v.object({ n: v.number() }));

/** An application under test. */
export interface World {
  readonly app: Millstream;
  readonly clock: VirtualClock;
  readonly store: Store;
  readonly seen: Observation[];
  /** Observations of one kind. */
  of<K extends Observation["kind"]>(kind: K): Extract<Observation, { readonly kind: K }>[];
}

/** An application that is not started yet. Chance always says one half. */
export function world(
  options: Omit<MillstreamOptions, "broker"> & { readonly broker?: (store: Store) => Broker } = {},
  clock: VirtualClock = virtualClock(),
): World {
  const store = options.store ?? memoryStore({ clock });
  const seen: Observation[] = [];
  const { broker, ...rest } = options;
  const app = millstream({
    clock,
    store,
    random: () => 0.5,
    observer: (observation) => void seen.push(observation),
    ...(broker ? { broker: broker(store) } : {}),
    ...rest,
  });
  return {
    app,
    clock,
    store,
    seen,
    of: <K extends Observation["kind"]>(kind: K) =>
      seen.filter((one): one is Extract<Observation, { readonly kind: K }> => one.kind === kind),
  };
}

/** Changes to the subscriptions of a broker. Each gets the original. */
export type SubscriptionPatch = (original: Subscription) => Partial<Subscription>;

/** A broker whose subscriptions are changed. */
export function patched(broker: Broker, patch: SubscriptionPatch): Broker {
  return {
    ...broker,
    subscribe: async (...args) => {
      const original = await broker.subscribe(...args);
      return { ...original, ...patch(original) };
    },
  };
}

/** Deliveries that say nothing about having been handed out before. */
export function unmarked(deliveries: readonly Delivery[]): readonly Delivery[] {
  return deliveries.map((delivery) => ({ ...delivery, redelivered: false }));
}

/** A promise and how to settle it. */
export function gate<T = void>(): { readonly passed: Promise<T>; open(value: T): void } {
  let open = (_value: T): void => {};
  const passed = new Promise<T>((resolve) => open = resolve);
  return { passed, open: (value) => open(value) };
}

/**
 * Lets virtual time pass until something is so. Real time passes as well: derived ids are hashed outside of promise
 * jobs, which a virtual clock does not wait for.
 */
export async function until(
  clock: VirtualClock,
  so: () => boolean | Promise<boolean>,
  stepMs = 50,
): Promise<void> {
  await eventually(async () => {
    await clock.advance(stepMs);
    return await so();
  }, { withinMs: 40_000, everyMs: 1 });
}
