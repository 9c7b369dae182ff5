/**
 * What comes next in a saga, as pure functions of what is saved: which steps to run or undo, what to wait for, and what
 * to save before and after it. Everything that touches the world is in `drive.ts`.
 *
 * Compensation follows Garcia-Molina and Salem, "Sagas" (1987): steps that have, or may have, taken effect are undone in
 * the reverse of the order they were started in.
 *
 * @module
 */
import type { SagaHistoryEntry, SagaInstance, SagaStepRecord } from "../ports/saga_store.ts";
import type { Saga, Step } from "./definition.ts";

/** Something to do now, whose intent is noted in the plan's instance. */
export interface Move {
  readonly kind: "run" | "undo";
  readonly step: Step<unknown>;
  readonly attempt: number;
  /** An earlier try may have taken effect. */
  readonly doubt: boolean;
  /** What the step waited for, where it did. */
  readonly signal?: string;
}

/** What comes next. */
export interface Plan {
  /** With all intents noted: to be saved before a move is made. */
  readonly instance: SagaInstance;
  readonly moves: readonly Move[];
  /** Steps whose child is to be created with this save. */
  readonly children: readonly Step<unknown>[];
  /** A step waits for a signal, and no signals were given: load them and plan again. */
  readonly needsSignals: boolean;
}

/** What a plan depends on besides the instance. */
export interface Facts {
  readonly now: number;
  /** Steps that this process is running. */
  readonly busy: ReadonlySet<string>;
  readonly signals: ReadonlyMap<string, string> | undefined;
}

const NEVER = Number.MAX_SAFE_INTEGER;
const HISTORY = 100;

/** The definition an instance is driven by, or `undefined` if this process has none that fits. */
export function definitionOf(saga: Saga | undefined, instance: SagaInstance): Saga | undefined {
  const found = saga &&
    [saga, ...saga.options.older ?? []].find(({ options }) => (options.version ?? 1) === instance.version);
  const fits = found && instance.steps.every(({ name }) => found.steps.some((step) => step.name === name));
  return fits ? found : undefined;
}

/** What comes next for an unfinished instance. */
export function plan(saga: Saga, instance: SagaInstance, facts: Facts): Plan {
  return instance.status === "compensating"
    ? planUndo(saga, instance, facts)
    : planRun(saga, instance, facts);
}

function planRun(saga: Saga, instance: SagaInstance, { now, busy, signals }: Facts): Plan {
  const moves: Move[] = [];
  const children: Step<unknown>[] = [];
  let needsSignals = false;
  let next = instance;
  let dueAt = NEVER;
  let waiting = true;
  let group = 0;
  for (const step of saga.steps) {
    if (group !== 0 && step.group !== group) break;
    let record = recordOf(next, step.name);
    if (record?.status === "done" || record?.status === "skipped") continue;
    if (step.run) {
      group = step.group;
      waiting = false;
      if (busy.has(step.name)) continue;
      if (record?.status === "retrying" && (record.dueAt ?? 0) > now) {
        dueAt = Math.min(dueAt, record.dueAt ?? 0);
        continue;
      }
      if (record?.status === "started" && step.inDoubt === "undo" && !isPastPivot(saga, instance)) {
        const error = `Step "${step.name}" was running when its process stopped`;
        return plan(saga, failedForGood(instance, step.name, error, false, now), { now, busy, signals });
      }
      const attempt = (record?.attempt ?? 0) + 1;
      next = intend(next, step.name, "started", attempt, now);
      moves.push({ kind: "run", step, attempt, doubt: attempt > 1 });
      continue;
    }
    if (!record) {
      const wait = step.sleepMs ?? step.wait?.timeoutMs ?? NEVER;
      const ms = typeof wait === "function" ? wait(next.data) : wait;
      record = {
        name: step.name,
        status: "waiting",
        attempt: 1,
        startedAt: now,
        dueAt: Math.min(NEVER, now + ms),
      };
      next = withRecord(next, record, now);
      if (step.child) children.push(step);
    }
    const due = (record.dueAt ?? 0) <= now;
    if (step.sleepMs !== undefined && due) {
      next = withRecord(next, { ...record, status: "done", endedAt: now }, now);
      continue; // the group may be over
    }
    group = step.group;
    if (busy.has(step.name)) {
      waiting = false;
      continue;
    }
    if (step.sleepMs === undefined && !signals) needsSignals = true;
    const signal = signals?.get(step.name);
    if (signal !== undefined && (record.error === undefined || due)) {
      moves.push({ kind: "run", step, attempt: record.attempt, doubt: false, signal });
      waiting = false;
    } else if (due && signals) {
      return plan(saga, waitedTooLong(saga, next, step, record, now), { now, busy, signals });
    } else dueAt = Math.min(dueAt, record.dueAt ?? NEVER);
  }
  if (group === 0) return ended(next, "completed", now);
  const status = waiting ? "waiting" : "running";
  // What is under way is due as soon as the lease of its process runs out.
  if (moves.length > 0 || busy.size > 0) dueAt = now;
  return { instance: { ...next, status, dueAt }, moves, children, needsSignals };
}

function waitedTooLong(
  saga: Saga,
  instance: SagaInstance,
  { name, wait }: Step<unknown>,
  record: SagaStepRecord,
  now: number,
): SagaInstance {
  if (wait?.onTimeout === "continue") {
    return withRecord(instance, { ...record, status: "done", endedAt: now }, now);
  }
  const error = `Step "${name}" waited longer than ${wait?.timeoutMs} ms`;
  if (!isPastPivot(saga, instance)) return failedForGood(instance, name, error, true, now);
  return withRecord(instance, { ...record, error, dueAt: NEVER }, now); // no way back: it goes on waiting
}

function planUndo(saga: Saga, instance: SagaInstance, { now, busy }: Facts): Plan {
  let next = instance;
  const rest = (dueAt: number): Plan => ({
    instance: { ...next, dueAt },
    moves: [],
    children: [],
    needsSignals: false,
  });
  // What was started beside a step that failed comes to its end first.
  if (busy.size > 0) return rest(now);
  if (isPastPivot(saga, instance)) { // a child whose parent compensates
    return ended({ ...instance, error: "It is past its point of no return" }, "compensation_failed", now);
  }
  for (const record of [...instance.steps].reverse()) {
    const { name, status } = record;
    if (status === "undone" || status === "undo_failed" || status === "skipped") continue;
    const step = saga.steps.find((one) => one.name === name)!;
    if (status === "undoing" && (record.dueAt ?? 0) > now) return rest(record.dueAt ?? now);
    if (!step.undo && !step.child) {
      next = withRecord(next, { ...record, status: "undone" }, now);
      continue;
    }
    const attempt = status === "undoing" ? record.attempt + 1 : 1;
    next = intend(next, name, "undoing", attempt, now);
    const move: Move = { kind: "undo", step, attempt, doubt: false };
    return { instance: { ...next, dueAt: now }, moves: [move], children: [], needsSignals: false };
  }
  const failed = next.steps.some(({ status }) => status === "undo_failed");
  return ended(next, failed ? "compensation_failed" : "compensated", now);
}

function ended(instance: SagaInstance, status: SagaInstance["status"], now: number): Plan {
  const next = { ...instance, status, updatedAt: now, dueAt: now };
  return { instance: next, moves: [], children: [], needsSignals: false };
}

function intend(
  instance: SagaInstance,
  name: string,
  status: "started" | "undoing",
  attempt: number,
  now: number,
): SagaInstance {
  const before = recordOf(instance, name);
  // A record of no try was a look at something that goes on by itself.
  const next = before && before.attempt > 0 ? withHistory(instance, tryOf(before)) : instance;
  return withRecord(next, { name, status, attempt, startedAt: now }, now);
}

/** The instance after a move that succeeded. */
export function succeeded(instance: SagaInstance, move: Move, data: unknown, now: number): SagaInstance {
  const { dueAt: _, error: __, ...record } = recordOf(instance, move.step.name)!;
  const status = move.kind === "run" ? "done" : "undone";
  return { ...withRecord(instance, { ...record, status, endedAt: now }, now), data };
}

/** The instance after a move that failed, or has not come to its end, and is made again at `dueAt`. */
export function failedOnce(
  instance: SagaInstance,
  move: Move,
  error: string | undefined,
  dueAt: number,
  now: number,
): SagaInstance {
  const record = recordOf(instance, move.step.name)!;
  const status = move.kind === "undo" ? "undoing" : move.step.run ? "retrying" : "waiting";
  const failed = { ...record, status, endedAt: now, dueAt } as const;
  return withRecord(instance, error === undefined ? failed : { ...failed, error }, now);
}

/**
 * The instance after a step failed for good: a run turns the saga to compensating.
 *
 * @param definite Whether the step surely took no effect, at this try and all before: there is nothing to undo.
 */
export function failedForGood(
  instance: SagaInstance,
  step: string,
  error: string,
  definite: boolean,
  now: number,
): SagaInstance {
  const record = recordOf(instance, step)!;
  const failed: SagaStepRecord = {
    ...record,
    ...(definite ? { status: "undone" } : {}),
    error,
    endedAt: now,
  };
  const next = withRecord(instance, failed, now);
  return { ...next, status: "compensating", error: instance.status === "compensating" ? next.error! : error };
}

/** The instance after an undo failed for good: it is noted, and the others go on. */
export function undoFailed(instance: SagaInstance, step: string, error: string, now: number): SagaInstance {
  const record = recordOf(instance, step)!;
  return withRecord(instance, { ...record, status: "undo_failed", error, endedAt: now }, now);
}

/** Whether the saga has passed its point of no return. */
export function isPastPivot(saga: Saga, { steps }: SagaInstance): boolean {
  return saga.steps.some(({ pivot, name }) =>
    pivot === true && steps.some((record) => record.name === name && record.status === "done")
  );
}

/** All tries so far, oldest first, with those that are under way. */
export function timeline({ history = [], steps }: SagaInstance): readonly SagaHistoryEntry[] {
  const last = steps.filter(({ startedAt }) => startedAt > 0).map((record) => tryOf(record, history));
  // Of what began in the same millisecond: what an operator set off comes after the operator, steps in the order they were
  // started in, undos after them, and the end that an operator declared comes last.
  const rank = ({ step, action }: SagaHistoryEntry): number => {
    if (action === "force-complete") return steps.length + 2;
    return action === "undo" ? steps.length + 1 : steps.findIndex(({ name }) => name === step);
  };
  return [...history, ...last].sort((a, b) => a.startedAt - b.startedAt || rank(a) - rank(b));
}

/** The try that a record shows. */
export function tryOf(record: SagaStepRecord, history: readonly SagaHistoryEntry[] = []): SagaHistoryEntry {
  const { name, status, attempt, startedAt, endedAt, error } = record;
  // A step that needs no undo is undone without a try.
  const undone = status === "undone" &&
    history.some(({ step, action }) => step === name && action === "run");
  const action = status === "undoing" || status === "undo_failed" || undone ? "undo" : "run";
  return {
    step: name,
    action,
    attempt,
    startedAt,
    ...(endedAt === undefined ? {} : { endedAt }),
    ...(error === undefined ? {} : { error }),
  };
}

/** The instance with one more entry in its history, which is bounded. */
export function withHistory(instance: SagaInstance, entry: SagaHistoryEntry): SagaInstance {
  return { ...instance, history: [...instance.history ?? [], entry].slice(-HISTORY) };
}

/** The record of a step. */
export function recordOf({ steps }: SagaInstance, name: string): SagaStepRecord | undefined {
  return steps.find((record) => record.name === name);
}

/** The instance with a step's record replaced, or added at the end. */
export function withRecord(instance: SagaInstance, record: SagaStepRecord, now: number): SagaInstance {
  const { steps } = instance;
  const at = steps.findIndex(({ name }) => name === record.name);
  return {
    ...instance,
    steps: at < 0 ? [...steps, record] : steps.with(at, record),
    updatedAt: now,
  };
}
