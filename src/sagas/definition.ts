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
  /**
   * Sends a command through the outbox in the transaction that saves this step. It runs later, under an id that is the
   * same at every try, in a process that serves it.
   */
  send<C extends AnyCommand>(command: C, data: DataOf<C>): void;
  /** Runs a command now, under an id that is the same at every try: repeating it repeats no effect on an aggregate. */
  dispatch<C extends AnyCommand>(command: C, data: DataOf<C>): Promise<DispatchResult<ResultOf<C>>>;
}

/** What a step may return: a change that is merged into the saga's data. */
export type StepChange<Data> = Partial<Data> | void | Promise<Partial<Data> | void>;

/** How failures of a step are answered. */
export interface StepRetry extends RetryPolicy {
  /**
   * By the error's `code` or `name`: tries and delays of its own, `"compensate"` at once, or `"retry"` for as long as
   * it takes.
   */
  readonly on?: Readonly<Record<string, RetryPolicy | "compensate" | "retry">>;
}

/** What a step consists of. */
export interface StepParts<Data> {
  /**
   * Does the step. May run more than once; see `idempotencyKey`. What it returns is merged into the saga's data.
   * `refuse(...)` and errors with `retryable: false` compensate at once; others are tried again first. The step itself
   * is undone as well, unless its first try refused before it had sent a command.
   */
  readonly run: (data: Data, context: StepContext) => StepChange<Data>;
  /** Takes it back. Must tolerate that the step never happened or was taken back before. */
  readonly undo?: (data: Data, context: StepContext) => StepChange<Data>;
  /**
   * Asked before a try that follows one whose outcome is unknown (it failed, or the process died): whether that one
   * took effect. `true` or a change of the data: it did, the step is done. `false`: run it again.
   */
  readonly verify?: (
    data: Data,
    context: StepContext,
  ) => boolean | Partial<Data> | Promise<boolean | Partial<Data>>;
  /** What happens to a step that was running when its process died, or that took too long. @default "retry" */
  readonly inDoubt?: "retry" | "undo";
  /** Tries of `run` before compensating. @default 5 attempts */
  readonly retry?: StepRetry;
  /** Tries of `undo` before giving up on it. @default 10 attempts */
  readonly undoRetry?: RetryPolicy;
  /** A try that takes longer has failed with an unknown outcome, in milliseconds. @default 30_000 */
  readonly timeoutMs?: number;
  /**
   * The point of no return: once this step is done the saga only goes forward, and later steps are tried until they
   * succeed or an operator steps in. The step itself compensates on a refusal only. @default false
   */
  readonly pivot?: boolean;
}

/** Waiting for an event. */
export interface WaitParts<Data> {
  readonly event: AnyEvent;
  /** The id of the instance the event is for; `undefined` for none. The event may come before the saga waits for it. */
  // deno-lint-ignore no-explicit-any -- the data of `event`
  readonly correlate: (event: Message<any>) => string | undefined;
  /** What of it to keep. */
  // deno-lint-ignore no-explicit-any -- the data of `event`
  readonly take?: (data: Data, event: Message<any>) => Partial<Data> | void;
  /** How long to wait, in milliseconds. @default for ever */
  readonly timeoutMs?: number;
  /** What to do then. @default "compensate" */
  readonly onTimeout?: "compensate" | "continue";
}

/** Another saga as a step. It fails if the child compensates; undoing it compensates the child. */
export interface ChildParts<Data, ChildData> {
  readonly saga: Saga<ChildData>;
  /** The child's first data. Its id is `<sagaId>/<step>`. */
  readonly data: (data: Data) => NoInfer<ChildData>;
  /** What of the child's last data to keep. */
  readonly take?: (data: Data, child: ChildData) => Partial<Data> | void;
}

/** A step as the saga has it: one of `run`, `wait`, `sleepMs`, `child`. */
export interface Step<Data> extends Partial<StepParts<Data>> {
  readonly name: string;
  /** Steps of one group run side by side. */
  readonly group: number;
  readonly wait?: WaitParts<Data>;
  readonly sleepMs?: number | ((data: Data) => number);
  // deno-lint-ignore no-explicit-any -- each child has its own
  readonly child?: ChildParts<Data, any>;
}

/** Options of {@linkcode saga}. */
export interface SagaOptions {
  /** Increase it when running instances cannot go on with the changed steps. @default 1 */
  readonly version?: number;
  /** Earlier versions, which drive the instances that were started with them. */
  // deno-lint-ignore no-explicit-any -- earlier data
  readonly older?: readonly Saga<any>[];
  /** An instance that takes longer counts as stuck, in milliseconds. @default never */
  readonly deadlineMs?: number;
}

/** A saga. Immutable: each method returns a longer one. */
export interface Saga<Data = unknown> {
  readonly kind: "saga";
  readonly name: string;
  readonly schema: Schema<unknown, Data>;
  readonly steps: readonly Step<Data>[];
  readonly options: SagaOptions;
  /** Adds a step at the end. @throws `INVALID_ARGUMENT` if the name is taken. */
  step(name: string, parts: StepParts<Data>): Saga<Data>;
  /** Adds steps that run side by side. Undone one by one, the last started first. */
  parallel(steps: Readonly<Record<string, StepParts<Data>>>): Saga<Data>;
  /** Waits for an event. */
  waitFor(name: string, parts: WaitParts<Data>): Saga<Data>;
  /** Waits for a time, in milliseconds. */
  sleep(name: string, ms: number | ((data: Data) => number)): Saga<Data>;
  /** Runs another saga and waits for its end. */
  child<ChildData>(name: string, parts: ChildParts<Data, ChildData>): Saga<Data>;
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
export function saga<Data>(
  name: string,
  schema: Schema<unknown, Data>,
  options: SagaOptions = {},
): Saga<Data> {
  return build({ name: checkName("saga name", name), schema, options }, []);
}

function build<Data>(
  head: Pick<Saga<Data>, "name" | "schema" | "options">,
  steps: readonly Step<Data>[],
): Saga<Data> {
  const group = (steps.at(-1)?.group ?? 0) + 1;
  function add(...more: readonly Step<Data>[]): Saga<Data> {
    for (const { name } of more) {
      checkName("step name", name);
      if (!steps.some((step) => step.name === name)) continue;
      throw new MillstreamError(
        "INVALID_ARGUMENT",
        `Cannot add a second step "${name}" to saga "${head.name}"`,
      );
    }
    return build(head, [...steps, ...more]);
  }
  return {
    kind: "saga",
    ...head,
    steps,
    step: (name, parts) => add({ ...parts, name, group }),
    parallel: (parts) => add(...Object.entries(parts).map(([name, part]) => ({ ...part, name, group }))),
    waitFor: (name, wait) => add({ name, group, wait }),
    sleep: (name, sleepMs) => add({ name, group, sleepMs }),
    child: (name, child) => add({ name, group, child }),
  };
}
