/**
 * What everything around sagas needs.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { Random } from "../core/ids.ts";
import type { Message } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { DispatchResult } from "../messaging/context.ts";
import type { MessageFactory } from "../messaging/factory.ts";
import type { SagaInstance } from "../ports/saga_store.ts";
import type { Store } from "../ports/store.ts";

/** What driving sagas needs. */
export interface SagaParts {
  readonly store: Store;
  readonly factory: MessageFactory;
  readonly clock: Clock;
  readonly random: Random;
  readonly observer: Observer;
  /** Tells this process from the others. */
  readonly owner: string;
  /** Runs a command. */
  readonly dispatch: (command: Message) => Promise<DispatchResult>;
  /** Called when a step's effects have been committed, so that the relay need not wait for its next look. */
  readonly committed: () => void;
}

/** Options of the orchestrator. */
export interface SagaRunOptions {
  /** Instances that one process drives at once. @default 32 */
  readonly concurrency?: number;
  /** How long the instances of a dead process wait before another one takes them, in milliseconds. @default 10_000 */
  readonly leaseMs?: number;
  /** The longest time between two looks for instances that are due, in milliseconds. @default 200 */
  readonly pollMs?: number;
}

/** Tells the observer what became of an instance or a step. */
export function observe(
  { observer }: Pick<SagaParts, "observer">,
  { saga, id }: SagaInstance,
  step: string | undefined,
  status: string,
  error?: Error,
): void {
  const base = { kind: "saga" as const, saga, id, step, status };
  observer(error ? { ...base, error } : base);
}
