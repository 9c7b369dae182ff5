/**
 * One move of a saga, as a pure function of what is saved: which step to run or undo next, and what to save before and
 * after it. Everything that touches the world is in `orchestrator.ts`.
 *
 * Compensation follows Garcia-Molina and Salem, "Sagas" (1987): steps that have, or may have, taken effect are undone in
 * the reverse of the order they were started in.
 *
 * @module
 */
import type { SagaInstance, SagaStatus, SagaStepRecord } from "../ports/saga_store.ts";

/** What to do next. */
export type Move =
  | { readonly kind: "run"; readonly step: string; readonly attempt: number }
  | { readonly kind: "undo"; readonly step: string; readonly attempt: number }
  | { readonly kind: "end"; readonly status: SagaStatus };

/** A move that runs or undoes a step. */
export type ActiveMove = Exclude<Move, { readonly kind: "end" }>;

/** What to do next with a saga of these steps. */
export function nextMove(instance: SagaInstance, stepNames: readonly string[]): Move {
  return instance.status === "compensating" ? nextUndo(instance) : nextRun(instance, stepNames);
}

function nextRun(instance: SagaInstance, stepNames: readonly string[]): Move {
  for (const step of stepNames) {
    const record = instance.steps.find(({ name }) => name === step);
    if (record?.status !== "done") return { kind: "run", step, attempt: (record?.attempt ?? 0) + 1 };
  }
  return { kind: "end", status: "completed" };
}

function nextUndo({ steps }: SagaInstance): Move {
  for (const record of [...steps].reverse()) {
    if (record.status === "undone" || record.status === "undo_failed") continue;
    const attempt = record.status === "undoing" ? record.attempt + 1 : 1;
    return { kind: "undo", step: record.name, attempt };
  }
  const failed = steps.some(({ status }) => status === "undo_failed");
  return { kind: "end", status: failed ? "compensation_failed" : "compensated" };
}

/** The instance with the intent of a move noted: saved before the move is made. */
export function intend(instance: SagaInstance, move: ActiveMove, now: number): SagaInstance {
  const status = move.kind === "run" ? "started" : "undoing";
  const before = instance.steps.find(({ name }) => name === move.step);
  const startedAt = before && before.status === status ? before.startedAt : now;
  return withStep(instance, { name: move.step, status, attempt: move.attempt, startedAt }, now);
}

/** The instance after a move that succeeded. */
export function succeeded(
  instance: SagaInstance,
  move: ActiveMove,
  data: unknown,
  now: number,
): SagaInstance {
  const status = move.kind === "run" ? "done" : "undone";
  return {
    ...withStep(instance, { ...record(instance, move.step), status, endedAt: now }, now),
    data,
    dueAt: now,
  };
}

/** The instance after a move that failed and will be tried again at `dueAt`. */
export function failedOnce(
  instance: SagaInstance,
  move: ActiveMove,
  error: string,
  dueAt: number,
  now: number,
): SagaInstance {
  return { ...withStep(instance, { ...record(instance, move.step), error }, now), dueAt };
}

/**
 * The instance after a move that failed for good: a run turns the saga to compensating, an undo is noted and the
 * others go on.
 *
 * @param definite Whether the step surely took no effect, at this try and all before: there is nothing to undo.
 */
export function failedForGood(
  instance: SagaInstance,
  move: ActiveMove,
  error: string,
  definite: boolean,
  now: number,
): SagaInstance {
  const failedStep: SagaStepRecord = { ...record(instance, move.step), error, endedAt: now };
  if (move.kind === "undo") {
    return { ...withStep(instance, { ...failedStep, status: "undo_failed" }, now), dueAt: now };
  }
  const step: SagaStepRecord = definite ? { ...failedStep, status: "undone" } : failedStep;
  return { ...withStep(instance, step, now), status: "compensating", error, dueAt: now };
}

function record(instance: SagaInstance, step: string): SagaStepRecord {
  const found = instance.steps.find(({ name }) => name === step);
  if (!found) throw new Error(`Saga "${instance.id}" has no record of step "${step}"`);
  return found;
}

function withStep(instance: SagaInstance, step: SagaStepRecord, now: number): SagaInstance {
  const known = instance.steps.some(({ name }) => name === step.name);
  const steps = known
    ? instance.steps.map((old) => old.name === step.name ? step : old)
    : [...instance.steps, step];
  return { ...instance, steps, updatedAt: now };
}
