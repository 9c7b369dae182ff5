/**
 * Sagas and process managers of an application: what starts them, what they wait for, and what an operator can do. All
 * that drives them is loaded with its first use.
 *
 * @module
 */
import type { Loop } from "../messaging/loop.ts";
import type { Saga, SagaUse } from "../sagas/definition.ts";
import type { Sagas } from "../sagas/operations.ts";
import type { SagaRunOptions } from "../sagas/parts.ts";
import type { ProcessManager } from "../sagas/process_manager.ts";
import type { SagaRuntime } from "../sagas/runtime.ts";
import { alreadyRegistered } from "../cqrs/command_bus.ts";
import type { Millstream } from "./application.ts";
import { later } from "../core/later.ts";
import type { Parts } from "./parts.ts";

/** The application's members that have to do with sagas. */
export interface Saving extends Pick<Millstream, "startSaga" | "sagas"> {
  useSaga(saga: Saga, use: SagaUse<unknown>): void;
  useProcess(manager: ProcessManager): void;
  /** Starts the orchestrator, if there is anything to drive. */
  run(): Promise<Loop | undefined>;
}

/** Creates them. */
export function saving(parts: Parts, options: SagaRunOptions): Saving {
  const { registry, commands } = parts;
  const processes = new Map<string, ProcessManager>();
  let loading: Promise<SagaRuntime> | undefined;

  function runtime(): Promise<SagaRuntime> {
    return loading ??= import("../sagas/runtime.ts").then(({ sagaRuntime }) =>
      sagaRuntime({ ...parts, dispatch: (command) => commands.dispatch(command) }, registry.sagas, processes)
    );
  }

  function useSaga(saga: Saga, { startOn, id, data }: SagaUse<unknown>): void {
    if (processes.has(saga.name)) throw alreadyRegistered("saga or process manager", saga.name);
    registry.addSaga(saga);
    for (const one of [saga, ...saga.options.older ?? []]) {
      for (const step of one.steps) {
        const { wait, name } = step;
        if (!wait || (one !== saga && saga.steps.some((own) => own.name === name))) continue;
        registry.subscribe(wait.event, `saga-${saga.name}.${name}`, {}, async (event) => {
          await (await runtime()).deliver(step, event);
        });
      }
    }
    if (!startOn) return;
    registry.subscribe(startOn, `saga-${saga.name}`, {}, async (event) => {
      const start = { data: data ? data(event) : event.data, correlationId: event.correlationId ?? event.id };
      await (await runtime()).start(saga, id ? id(event) : `${saga.name}-${event.id}`, start);
    });
  }

  function useProcess(manager: ProcessManager): void {
    if (processes.has(manager.name) || registry.sagas.has(manager.name)) {
      throw alreadyRegistered("saga or process manager", manager.name);
    }
    processes.set(manager.name, manager);
    for (const { event } of manager.events.values()) {
      registry.subscribe(event, `process-${manager.name}`, {}, async (message) => {
        await (await runtime()).react(manager, message);
      });
    }
  }

  return {
    useSaga,
    useProcess,
    sagas: later<Sagas>(async () => (await runtime()).sagas),
    startSaga: async (saga, id, data, { correlationId = id } = {}) =>
      await (await runtime()).start(saga, id, { data, correlationId }),
    async run() {
      return registry.sagas.size + processes.size > 0 ? (await runtime()).run(options) : undefined;
    },
  };
}
