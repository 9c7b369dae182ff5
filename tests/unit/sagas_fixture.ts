/** A saga of three steps whose every effect is counted by its idempotency key. */
import * as v from "valibot";
import { MillstreamError } from "../../src/core/errors.ts";
import { uuidv7Generator } from "../../src/core/ids.ts";
import type { Observation } from "../../src/core/observer.ts";
import { memoryStore } from "../../src/memory/store.ts";
import { messageFactory } from "../../src/messaging/factory.ts";
import type { SagaInstance, SagaStore } from "../../src/ports/saga_store.ts";
import type { Store } from "../../src/ports/store.ts";
import type { Saga, StepContext } from "../../src/sagas/definition.ts";
import { saga } from "../../src/sagas/definition.ts";
import { type Orchestrator, startOrchestrator } from "../../src/sagas/orchestrator.ts";
import type { SagaParts } from "../../src/sagas/parts.ts";
import { starter } from "../../src/sagas/start.ts";
import { type VirtualClock, virtualClock } from "../../src/testing/mod.ts";

export const Data = v.object({ order: v.string(), steps: v.optional(v.array(v.string())) });
export type Data = v.InferOutput<typeof Data>;

/** Other systems, which recognise a repeated call by its key. */
export interface Outside {
  /** Each call, also repeated ones. */
  readonly calls: string[];
  /** What took effect, once per key, in order. */
  readonly effects: string[];
  act(context: StepContext): void;
}

export function outside(): Outside {
  const calls: string[] = [];
  const effects: string[] = [];
  return {
    calls,
    effects,
    act({ idempotencyKey }) {
      calls.push(idempotencyKey);
      if (!effects.includes(idempotencyKey)) effects.push(idempotencyKey);
    },
  };
}

/** `s/a`, `s/b`, `s/c` and their undos act outside; `fail` throws after the effect of a step. */
export function threeSteps(world: Outside, fail: (step: string) => void = () => {}): Saga<Data> {
  let built = saga("three", Data);
  for (const step of ["a", "b", "c"]) {
    built = built.step(step, {
      retry: { attempts: 3, baseMs: 10 },
      run(data, context) {
        world.act(context);
        fail(step);
        return { steps: [...data.steps ?? [], step] };
      },
      undo: (_, context) => world.act(context),
    });
  }
  return built;
}

/** One process that drives sagas. */
export interface Driver {
  readonly loop: Orchestrator;
  readonly parts: SagaParts;
  readonly seen: Observation[];
}

export interface SagaWorld {
  readonly clock: VirtualClock;
  readonly store: Store;
  /** Another process on the same store, possibly with a store of its own making. */
  drive(saga: Saga<Data>, owner: string, store?: Store): Driver;
  driveAll(sagas: readonly Saga<Data>[], owner: string, store?: Store): Driver;
  start(saga: Saga<Data>, id?: string): Promise<boolean>;
  load(id?: string): Promise<SagaInstance>;
}

export function sagaWorld(): SagaWorld {
  const clock = virtualClock();
  const store = memoryStore({ clock });
  const factory = messageFactory({
    source: "/test",
    clock,
    newId: uuidv7Generator(() => clock.now()),
    limits: {},
  });
  function driveAll(sagas: readonly Saga<Data>[], owner: string, own: Store = store): Driver {
    const seen: Observation[] = [];
    const parts: SagaParts = {
      store: own,
      factory,
      clock,
      random: () => 0.5,
      observer: (observation) => void seen.push(observation),
      owner,
      dispatch: () => Promise.reject(new MillstreamError("HANDLER_NOT_FOUND", "no commands here")),
      committed: () => {},
    };
    const loop = startOrchestrator(parts, new Map(sagas.map((saga) => [saga.name, saga as Saga])));
    return { loop, parts, seen };
  }
  return {
    clock,
    store,
    drive: (saga, owner, own) => driveAll([saga], owner, own),
    driveAll,
    start: (saga, id = "s") =>
      starter({ store, clock }, () => undefined)(saga, id, { data: { order: "o" }, correlationId: "c" }),
    async load(id = "s") {
      return (await store.sagas.load(id))!;
    },
  };
}

/** The store with changes to its saga port, inside transactions as well. */
export function withSagas(store: Store, patch: (sagas: SagaStore) => Partial<SagaStore>): Store {
  const changed = (sagas: SagaStore): SagaStore => ({ ...sagas, ...patch(sagas) });
  return {
    ...store,
    sagas: changed(store.sagas),
    transaction: (work) => store.transaction((ports) => work({ ...ports, sagas: changed(ports.sagas) })),
  };
}
