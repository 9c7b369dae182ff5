/**
 * Everything about sagas that is loaded on demand: most applications at the edge have none.
 *
 * @module
 */
import type { Message } from "../core/message.ts";
import type { Saga, Step } from "./definition.ts";
import { operations } from "./operate.ts";
import type { Sagas } from "./operations.ts";
import { type Orchestrator, startOrchestrator } from "./orchestrator.ts";
import type { SagaParts, SagaRunOptions } from "./parts.ts";
import { fireTimers, reactToEvent } from "./process.ts";
import type { ProcessManager } from "./process_manager.ts";
import { starter, type StartInstance } from "./start.ts";

/** The running side of sagas in one application. */
export interface SagaRuntime {
  readonly sagas: Sagas;
  readonly start: StartInstance;
  /** Starts the orchestrator. */
  run(options: SagaRunOptions): Orchestrator;
  /** An event that a step waits for. */
  deliver(step: Step<unknown>, event: Message): Promise<void>;
  /** An event for a process manager. */
  react(manager: ProcessManager, event: Message): Promise<void>;
}

/** Creates it. */
export function sagaRuntime(
  parts: SagaParts,
  sagas: ReadonlyMap<string, Saga>,
  processes: ReadonlyMap<string, ProcessManager>,
): SagaRuntime {
  let orchestrator: Orchestrator | undefined;
  const current = (): Orchestrator | undefined => orchestrator;
  const timers = new Map(
    [...processes].map(([name, manager]) =>
      [name, (claim: Parameters<typeof fireTimers>[2]) => fireTimers(parts, manager, claim)] as const
    ),
  );
  return {
    sagas: operations(parts, sagas, current),
    start: starter(parts, current),
    run: (options) => orchestrator = startOrchestrator(parts, sagas, options, timers),
    async deliver({ name, wait }, event) {
      const id = wait?.correlate(event);
      if (id === undefined) return;
      await parts.store.sagas.signal(id, name, JSON.stringify(event));
      orchestrator?.wake();
    },
    react: (manager, event) => reactToEvent(parts, manager, event),
  };
}
