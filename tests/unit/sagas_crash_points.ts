/**
 * A saga of four steps, and every point at which its process can die: before and after each call of its store, and before
 * and after each effect. For stores and processes of any kind.
 */
import assert from "node:assert/strict";
import * as v from "valibot";
import { systemClock } from "../../src/core/clock.ts";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import { uuidv7Generator } from "../../src/core/ids.ts";
import { messageFactory } from "../../src/messaging/factory.ts";
import type { SagaInstance, SagaStore } from "../../src/ports/saga_store.ts";
import type { Store } from "../../src/ports/store.ts";
import { type Saga, saga } from "../../src/sagas/definition.ts";
import { type Orchestrator, startOrchestrator } from "../../src/sagas/orchestrator.ts";
import type { SagaParts } from "../../src/sagas/parts.ts";
import { withSagas } from "./sagas_fixture.ts";

/** Forward to the end, or back from a refusal of the last step. */
export type Way = "forward" | "back";
export const WAYS: readonly Way[] = ["forward", "back"];

/** How a process dies. What it returns is waited for. */
export type Die = () => Promise<never>;

const STEPS = ["a", "b", "c", "d"];
const Data = v.object({ done: v.array(v.string()) });

/** The other systems: `act` takes effect once for each key and counts the calls. */
export interface World {
  act(key: string): Promise<void>;
}

/** Counts the points that a run passes, and dies at one. */
export interface Mortal {
  readonly store: Store;
  readonly world: World;
  /** What the points were, in order, so far. */
  readonly points: readonly string[];
}

/** A process that dies at its point number `at`, from 1. */
export function mortal(store: Store, world: World, at: number, die: Die): Mortal {
  const points: string[] = [];
  let dead: Promise<never> | undefined;
  async function pass(name: string): Promise<void> {
    if (dead) return await dead;
    points.push(name);
    if (points.length === at) await (dead = die());
  }
  async function through<T>(name: string, call: () => Promise<T>): Promise<T> {
    await pass(`before ${name}`);
    const result = await call();
    await pass(`after ${name}`);
    return result;
  }
  let claimed = false;
  const patch = (sagas: SagaStore): Partial<SagaStore> => ({
    async claim(...args) {
      if (claimed) return dead ? await dead : []; // this process has one instance to drive
      const found = await sagas.claim(...args);
      if (found.length === 0) return found;
      claimed = true;
      await pass("after claim");
      return found;
    },
    save: (saves) =>
      through(`save of ${saves.map(({ instance }) => describe(instance)).join()}`, () => sagas.save(saves)),
    renew: async (...args) => dead ? await dead : await sagas.renew(...args),
  });
  return {
    points,
    store: withSagas(store, patch),
    world: { act: (key) => through(`effect ${key.slice(key.indexOf("/") + 1)}`, () => world.act(key)) },
  };
}

function describe({ status, steps }: SagaInstance): string {
  return [status, ...steps.map(({ name, status }) => `${name}:${status}`)].join(" ");
}

/** The saga. On the way back the last step refuses before it acts. */
export function fourSteps(name: string, way: Way, world: World): Saga {
  let built = saga(name, Data);
  for (const step of STEPS) {
    built = built.step(step, {
      retry: { baseMs: 1 },
      async run({ done }, { idempotencyKey }) {
        if (way === "back" && step === "d") throw refuse("NO");
        await world.act(idempotencyKey);
        return { done: [...done, step] };
      },
      async undo(_, { idempotencyKey }) {
        await world.act(idempotencyKey);
      },
    });
  }
  return built as unknown as Saga;
}

/** A new instance of it. */
export function newRun(name: string, id: string, now: number): SagaInstance {
  const times = { dueAt: now, startedAt: now, updatedAt: now };
  return {
    id,
    saga: name,
    version: 1,
    status: "running",
    data: { done: [] },
    steps: [],
    correlationId: id,
    ...times,
  };
}

/** A process that drives these sagas. */
export function orchestrate(
  store: Store,
  sagas: readonly Saga[],
  owner: string,
  { clock = systemClock, leaseMs = 10_000 }: { clock?: SagaParts["clock"]; leaseMs?: number } = {},
): Orchestrator {
  const newId = uuidv7Generator(() => clock.now());
  return startOrchestrator(
    {
      store,
      factory: messageFactory({ source: "/test", clock, newId, limits: {} }),
      clock,
      random: () => 0.5,
      observer: () => {},
      owner,
      dispatch: () => Promise.reject(new MillstreamError("HANDLER_NOT_FOUND", "no commands here")),
      committed: () => {},
    },
    new Map(sagas.map((saga) => [saga.name, saga])),
    { leaseMs, pollMs: 50, concurrency: 100 },
  );
}

/** Checks how an instance ended: each effect and each undo once by key, in order, whatever was in doubt. */
export function checkRun(
  way: Way,
  id: string,
  instance: SagaInstance | undefined,
  effects: readonly string[],
  where: string,
): void {
  assert.equal(instance?.status, way === "forward" ? "completed" : "compensated", where);
  assert.equal(new Set(effects).size, effects.length, where);
  const expected = way === "forward" ? ["a", "b", "c", "d"] : ["a", "b", "c", "c/undo", "b/undo", "a/undo"];
  // A step that was in doubt when it refused is undone as well, which does no harm.
  const own = effects.map((key) => key.slice(id.length + 1)).filter((key) =>
    way === "forward" || key !== "d/undo"
  );
  assert.deepEqual(own, expected, where);
}
