/**
 * One try of one step: runs or undoes it under its timeout, and says what came of it.
 *
 * @module
 */
import { backoffDelay, type ResolvedRetryPolicy, retryPolicy } from "../core/backoff.ts";
import { untilAborted } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import { checkStrict } from "../core/json.ts";
import type { Message } from "../core/message.ts";
import { validate } from "../core/schema.ts";
import type { SagaInstance } from "../ports/saga_store.ts";
import { failedForGood, failedOnce, isPastPivot, type Move, undoFailed, withRecord } from "./advance.ts";
import { recordOf } from "./advance.ts";
import { undoChild } from "./child.ts";
import type { Saga, StepContext } from "./definition.ts";
import { prepare, stage, type Staged, stepContext } from "./effects.ts";
import type { SagaParts } from "./parts.ts";
import type { SaveEffects } from "./saver.ts";

/** What a try came to. */
export type Outcome =
  | {
    readonly kind: "done";
    readonly change: unknown;
    readonly effects: SaveEffects;
    readonly staged: Staged;
  }
  /** Not at its end: to be looked at again after `ms`. */
  | { readonly kind: "later"; readonly ms: number }
  /** `definite`: it surely took no effect. */
  | { readonly kind: "failed"; readonly error: Error; readonly definite: boolean };

/** What `work` of a move may answer instead of a change of the data. */
export interface Later {
  readonly laterMs: number;
}

const RUN_RETRY = { attempts: 5 };
const UNDO_RETRY = { attempts: 10 };

/** Makes one move. Rejects only with the reason of `abort`, where that aborted for another reason than the timeout. */
export async function attempt(
  parts: SagaParts,
  instance: SagaInstance,
  move: Move,
  abort: AbortController,
): Promise<Outcome> {
  const { timeoutMs = 30_000, name } = move.step;
  const staged = stage();
  const { signal } = abort;
  const late = stepTimedOut(instance, name, timeoutMs);
  const cancel = parts.clock.after(timeoutMs, () => abort.abort(late()));
  try {
    const context = stepContext(parts, instance, move, staged, signal);
    const change = await untilAborted(work(parts, instance, move, context), signal);
    const ms = (change as Later | undefined)?.laterMs;
    if (move.kind === "undo" && move.step.child && ms !== undefined) return { kind: "later", ms };
    return { kind: "done", change, effects: await prepare(parts, instance, move, staged), staged };
  } catch (thrown) {
    if (signal.aborted && !isMillstreamError(signal.reason, "HANDLER_TIMEOUT")) throw signal.reason;
    const error = toError(thrown);
    return { kind: "failed", error, definite: isDefinite(error, move, staged) };
  } finally {
    cancel();
  }
}

// Async, so that what a step throws and what it rejects with are the same.
async function work(
  parts: SagaParts,
  { id, data }: SagaInstance,
  move: Move,
  context: StepContext,
): Promise<unknown> {
  const { step, kind, signal } = move;
  if (kind === "undo") {
    return step.child ? await undoChild(parts, `${id}/${step.name}`) : await step.undo?.(data, context);
  }
  if (signal !== undefined) return takeSignal(move, data, signal);
  if (step.verify && move.doubt) {
    const effect = await step.verify(data, context);
    if (effect !== false) return effect === true ? undefined : effect;
  }
  return await step.run?.(data, context);
}

/** What the event or the child that a step waited for changes. */
function takeSignal({ step: { name, wait, child } }: Move, data: unknown, text: string): unknown {
  if (wait) return wait.take?.(data, JSON.parse(text) as Message);
  const end = JSON.parse(text) as {
    readonly status: string;
    readonly data: unknown;
    readonly error?: string;
  };
  if (end.status === "completed") return child?.take?.(data, end.data);
  throw new MillstreamError(
    "REFUSED",
    `Child "${name}" ended ${end.status}: ${end.error ?? "no reason given"}`,
    {
      details: { reason: "CHILD_FAILED", status: end.status },
    },
  );
}

/** An earlier try may have taken effect, and so may a command that this one has sent: then the step must be undone. */
function isDefinite(error: Error, { attempt: tries, signal }: Move, staged: Staged): boolean {
  return isMillstreamError(error, "REFUSED") && (tries === 1 || signal !== undefined) && !staged.acted;
}

/** The data after a change, as the saga's schema accepts it. */
export async function changed(saga: Saga, data: unknown, change: unknown): Promise<unknown> {
  if (!change) return data;
  const next = { ...data as object, ...change as object };
  const valid = await validate(saga.schema, next, `data of saga "${saga.name}"`);
  checkStrict(valid);
  return valid;
}

/** The instance after a try that failed: to be repeated, or to be undone. */
export function afterFailure(
  { random }: Pick<SagaParts, "random">,
  saga: Saga,
  instance: SagaInstance,
  move: Move,
  { error, definite }: Extract<Outcome, { kind: "failed" }>,
  now: number,
): SagaInstance {
  const { step, kind, attempt: tries } = move;
  const { message } = error;
  if (kind === "undo") {
    const policy = retryPolicy({ ...UNDO_RETRY, ...step.undoRetry });
    // What surely cannot be undone by itself (a child past its pivot) is not tried again.
    if (tries >= policy.attempts || (step.child && isFinal(error))) {
      return undoFailed(instance, step.name, message, now);
    }
    return failedOnce(instance, move, message, now + backoffDelay(tries, policy, random), now);
  }
  const { policy, rule } = ruleFor(move, error);
  const forGood = rule === "compensate" || (rule === undefined && isFinal(error)) ||
    move.signal !== undefined;
  const mayCompensate = !isPastPivot(saga, instance) && (forGood || (!step.pivot && rule !== "retry"));
  // What ran beside a step that failed is not tried again.
  const isOver = forGood || tries >= policy.attempts || instance.status === "compensating";
  if (mayCompensate && isOver) return failedForGood(instance, step.name, message, definite, now);
  return failedOnce(instance, move, message, now + backoffDelay(Math.min(tries, 50), policy, random), now);
}

/** What the step declares for an error. */
function ruleFor(
  { step: { retry = {}, inDoubt } }: Move,
  error: Error,
): { policy: ResolvedRetryPolicy; rule: "compensate" | "retry" | "declared" | undefined } {
  const { on = {}, ...base } = retry;
  const code = String((error as { code?: unknown }).code);
  const rule = Object.hasOwn(on, code)
    ? on[code]
    : Object.hasOwn(on, error.name)
    ? on[error.name]
    : undefined;
  const policy = retryPolicy({ ...RUN_RETRY, ...base, ...(typeof rule === "object" ? rule : {}) });
  if (typeof rule === "object") return { policy, rule: "declared" };
  if (rule === undefined && inDoubt === "undo" && isMillstreamError(error, "HANDLER_TIMEOUT")) {
    return { policy, rule: "compensate" };
  }
  return { policy, rule };
}

/** Whether the error says that trying again is pointless. */
function isFinal(error: Error): boolean {
  return isMillstreamError(error, "REFUSED") || (error as { retryable?: unknown }).retryable === false;
}

/** The instance after a move that is not at its end. The look does not count as a try. */
export function afterLook(instance: SagaInstance, move: Move, ms: number, now: number): SagaInstance {
  const next = failedOnce(instance, move, undefined, now + ms, now);
  const record = recordOf(next, move.step.name)!;
  return withRecord(next, { ...record, attempt: record.attempt - 1 }, now);
}

/** Made when it is needed: an error remembers its stack, which costs. */
function stepTimedOut(instance: SagaInstance, step: string, timeoutMs: number): () => MillstreamError {
  return () =>
    new MillstreamError(
      "HANDLER_TIMEOUT",
      `Cannot wait longer for step "${step}" of saga "${instance.id}": it took more than ${timeoutMs} ms`,
    );
}
