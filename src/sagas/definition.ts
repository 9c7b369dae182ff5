/**
 * Sagas: work in steps across systems, each step with its compensation.
 *
 * @module
 */
import type { RetryPolicy } from "../core/backoff.ts";
import type {
  AnyCommand,
  AnyEvent,
  DataOf,
  EventDefinition,
  NewEvent,
  ResultOf,
} from "../core/definition.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Schema } from "../core/schema.ts";
import { MillstreamError } from "../core/errors.ts";
import type { DispatchResult } from "../messaging/context.ts";

/** Context of a step. */
export interface StepContext {
  readonly sagaId: string;
  /** `<sagaId>/<step>` and, when undoing, `<sagaId>/<step>/undo`: the same at every try. Hand it to the other system. */
  readonly idempotencyKey: string;
  /** 1 for the first try. */
  readonly attempt: number;
  /** Aborts on timeout, when the saga's lease is lost, and at shutdown. */
  readonly signal: AbortSignal;
  /** Publishes in the transaction that saves this step. */
  publish<Data>(definition: EventDefinition<Data>, data: Data, options?: MessageOptions): void;
  /** Appends to a stream in the transaction that saves this step, and publishes after it. */
  append(stream: string, events: readonly NewEvent[]): void;
  /** Runs a command now, under an id that is the same at every try: repeating it repeats no effect on an aggregate. */
  dispatch<C extends AnyCommand>(command: C, data: DataOf<C>): Promise<DispatchResult<ResultOf<C>>>;
}

/** What a step consists of. */
export interface StepParts<Data> {
  /**
   * Does the step. May run more than once; see `idempotencyKey`. What it returns is merged into the saga's data.
   * `refuse(...)` and errors with `retryable: false` compensate at once; others are tried again first. The step itself
   * is undone as well, unless its first try refused before it had sent a command.
   */
  readonly run: (data: Data, context: StepContext) => Partial<Data> | void | Promise<Partial<Data> | void>;
  /** Takes it back. Must tolerate that the step never happened or was taken back before. */
  readonly undo?: (data: Data, context: StepContext) => Partial<Data> | void | Promise<Partial<Data> | void>;
  /** Tries of `run` before compensating. @default 5 attempts */
  readonly retry?: RetryPolicy;
  /** Tries of `undo` before giving up on it. @default 10 attempts */
  readonly undoRetry?: RetryPolicy;
  /** A try that takes longer has failed with an unknown outcome, in milliseconds. @default 30_000 */
  readonly timeoutMs?: number;
}

/** A step with its name. */
export interface Step<Data> extends StepParts<Data> {
  readonly name: string;
}

/** A saga. Immutable: `step` returns a longer one. */
export interface Saga<Data = unknown> {
  readonly kind: "saga";
  readonly name: string;
  readonly schema: Schema<unknown, Data>;
  readonly steps: readonly Step<Data>[];
  /** Adds a step at the end. @throws `INVALID_ARGUMENT` if the name is taken. */
  step(name: string, parts: StepParts<Data>): Saga<Data>;
}

/** How a saga is started by events. */
export interface SagaUse<Data> {
  /** The event that starts an instance. */
  readonly startOn?: AnyEvent;
  /** The instance's id, unique among all sagas. The same id again starts nothing. @default `<saga>-<event id>` */
  // deno-lint-ignore no-explicit-any -- the data of `startOn`
  readonly id?: (event: Message<any>) => string;
  /** The instance's first data. @default the event's data */
  // deno-lint-ignore no-explicit-any -- the data of `startOn`
  readonly data?: (event: Message<any>) => Data;
}

/**
 * Defines a saga.
 *
 * @example
 * ```ts
 * const Fulfilment = saga("order-fulfilment", FulfilmentData)
 *   .step("reserve-inventory", { run: (d, ctx) => stock.reserve(d.items, ctx.idempotencyKey), undo: (d) => stock.release(d.items) })
 *   .step("process-payment", { run: charge, undo: refund, retry: { attempts: 5 } });
 * ```
 * @param schema The saga's data; validated at the start and after each step.
 */
export function saga<Data>(name: string, schema: Schema<unknown, Data>): Saga<Data> {
  return build(checkName("saga name", name), schema, []);
}

function build<Data>(name: string, schema: Schema<unknown, Data>, steps: readonly Step<Data>[]): Saga<Data> {
  return {
    kind: "saga",
    name,
    schema,
    steps,
    step(stepName, parts) {
      checkName("step name", stepName);
      if (steps.some((step) => step.name === stepName)) {
        throw new MillstreamError(
          "INVALID_ARGUMENT",
          `Cannot add a second step "${stepName}" to saga "${name}"`,
        );
      }
      return build(name, schema, [...steps, { ...parts, name: stepName }]);
    },
  };
}
