/**
 * Seeing and operating sagas: what an instance has been through, and what a person can do about it.
 *
 * @module
 */
import { aborted, sleep } from "../core/clock.ts";
import { describe, MillstreamError, refuse } from "../core/errors.ts";
import { isFinal, type SagaFilter, type SagaInstance, type SagaStepRecord } from "../ports/saga_store.ts";
import { definitionOf, isPastPivot, timeline, tryOf, withHistory } from "./advance.ts";
import { endSignals } from "./child.ts";
import type { Sagas, SagaView } from "./operations.ts";
import type { Orchestrator } from "./orchestrator.ts";
import type { Saga } from "./definition.ts";
import { observe, type SagaParts } from "./parts.ts";

/** A change that an operator makes. Throws `REFUSED` where it makes no sense. */
type Change = (instance: SagaInstance, now: number) => SagaInstance;

const LEASE_MS = 5_000;
const LOOK_MS = 50;
/** How long an operator waits for the step under way, in milliseconds. */
const PATIENCE_MS = 10_000;

/** What operators call. @param orchestrator The one of this process, if it runs. */
export function operations(
  parts: SagaParts,
  sagas: ReadonlyMap<string, Saga>,
  orchestrator: () => Orchestrator | undefined,
): Sagas {
  const { store, clock, owner } = parts;

  async function change(id: string, apply: Change): Promise<SagaView> {
    const until = clock.monotonic() + PATIENCE_MS;
    for (;;) {
      const claimed = await store.sagas.take(id, `${owner}/operator`, LEASE_MS);
      if (claimed) {
        const { instance } = claimed;
        let next: SagaInstance;
        try {
          next = { ...apply(instance, clock.now()), updatedAt: clock.now() };
        } catch (refusal) {
          await store.sagas.save([{ claimed, instance, release: true }]);
          throw refusal;
        }
        const saved = await store.transaction(async (ports) => {
          for (const { id: parent, name, text } of endSignals(next)) {
            await ports.sagas.signal(parent, name, text);
          }
          return (await ports.sagas.save([{ claimed, instance: next, release: true }]))[0];
        });
        if (!saved) continue;
        observe(parts, next, undefined, next.status);
        orchestrator()?.wake();
        return view(next, clock.now());
      }
      if (!await store.sagas.load(id)) throw notFound(id);
      if (clock.monotonic() >= until) throw busy(id);
      await sleep(clock, LOOK_MS);
    }
  }

  async function get(id: string): Promise<SagaView> {
    const instance = await store.sagas.load(id);
    if (!instance) throw notFound(id);
    return view(instance, clock.now());
  }

  async function list(filter: Partial<SagaFilter> & { stuck?: boolean } = {}): Promise<readonly SagaView[]> {
    const { stuck = false, limit = 100, ...rest } = filter;
    const now = clock.now();
    const found = await store.sagas.list({ ...rest, limit, ...(stuck ? { overdueAt: now } : {}) });
    return found.map((instance) => view(instance, now));
  }

  function settled(
    id: string,
    { signal, pollMs = 250 }: { signal?: AbortSignal; pollMs?: number } = {},
  ): Promise<SagaView> {
    return new Promise((resolve, reject) => {
      let over = false;
      let cancel = (): void => {};
      const close = (): void => {
        over = true;
        cancel();
        stop?.();
        signal?.removeEventListener("abort", onAbort);
      };
      const ended = (instance: SagaInstance): void => {
        close();
        resolve(view(instance, clock.now()));
      };
      const failed = (failure: unknown): void => {
        close();
        reject(failure);
      };
      const onAbort = (): void => failed(aborted(signal));
      async function look(): Promise<void> {
        const instance = await store.sagas.load(id);
        if (over) return;
        if (!instance) return failed(notFound(id));
        if (isFinal(instance.status)) return ended(instance);
        wait();
      }
      function wait(): void {
        cancel = clock.after(pollMs, () => void look().catch(failed));
      }
      const stop = orchestrator()?.onEnd(id, ended);
      if (signal?.aborted) return onAbort();
      signal?.addEventListener("abort", onAbort);
      if (orchestrator()?.isDriving(id)) wait();
      else look().catch(failed);
    });
  }

  return {
    get,
    list,
    settled,
    retry: (id) => change(id, retried),
    skip: (id, step) => change(id, (instance, now) => skipped(instance, step, now)),
    forceComplete: (id, reason) => change(id, (instance, now) => completed(instance, reason, now)),
    cancel: (id, reason) =>
      change(id, (instance, now) => {
        const saga = definitionOf(sagas.get(instance.saga), instance);
        if (saga && isPastPivot(saga, instance)) {
          throw refuse("PAST_PIVOT", `Cannot cancel saga ${describe(id)}: it is past its point of no return`);
        }
        return cancelled(instance, reason, now);
      }),
  };
}

/** An instance as operators see it. */
export function view(instance: SagaInstance, now: number): SagaView {
  const { history: _, fingerprint: __, ...facts } = instance;
  const entries = timeline(instance).map((entry) =>
    entry.endedAt === undefined ? entry : { ...entry, durationMs: entry.endedAt - entry.startedAt }
  );
  const stuck = !isFinal(instance.status) && instance.deadlineAt !== undefined && instance.deadlineAt < now;
  return { ...facts, stuck, timeline: entries };
}

function retried(instance: SagaInstance, now: number): SagaInstance {
  const { status, steps, id } = instance;
  if (status === "completed" || status === "compensated") throw nothingTo("retry", instance);
  const again = (record: SagaStepRecord): SagaStepRecord => {
    if (record.status === "undo_failed") return { ...record, status: "undoing", attempt: 0, dueAt: now };
    const waits = record.status === "retrying" || record.status === "undoing";
    return waits ? { ...record, attempt: 0, dueAt: now } : record;
  };
  // What is tried afresh counts from one again: the tries so far are history.
  const tried = steps.filter((record) => again(record) !== record && record.attempt > 0);
  const kept = tried.reduce((before, record) => withHistory(before, tryOf(record, before.history)), instance);
  const next = { ...kept, steps: steps.map(again), dueAt: now };
  if (status !== "compensation_failed") return noted(next, "retry", now);
  if (steps.some((record) => record.status === "undo_failed")) {
    return noted({ ...next, status: "compensating" }, "retry", now);
  }
  throw refuse("PAST_PIVOT", `Cannot retry saga ${describe(id)}: it is past its point of no return`);
}

function skipped(instance: SagaInstance, step: string | undefined, now: number): SagaInstance {
  const { status, steps } = instance;
  const undoing = status === "compensating" || status === "compensation_failed";
  const current = undoing
    ? ["undo_failed", "undoing", "started", "retrying", "done"]
    : ["retrying", "started", "waiting"];
  const candidates = undoing ? [...steps].reverse() : steps;
  const found = candidates.find((record) =>
    (step === undefined || record.name === step) && current.includes(record.status)
  );
  if (isFinal(status) && !undoing || !found) throw nothingTo("skip", instance, step);
  const next: SagaInstance = {
    ...instance,
    status: undoing ? "compensating" : status === "needs_migration" ? status : "running",
    steps: steps.map((record) => record === found ? { ...found, status: "skipped", endedAt: now } : record),
    dueAt: now,
  };
  return noted(next, "skip", now, found.name);
}

function completed(instance: SagaInstance, reason: string | undefined, now: number): SagaInstance {
  const { status } = instance;
  if (status === "completed" || status === "compensated") throw nothingTo("force-complete", instance);
  return noted({ ...instance, status: "completed", dueAt: now }, "force-complete", now, undefined, reason);
}

function cancelled(instance: SagaInstance, reason = "Cancelled", now: number): SagaInstance {
  const { status, parked } = instance;
  if (isFinal(status) || status === "compensating") throw nothingTo("cancel", instance);
  const change = parked
    ? { parked: { ...parked, status: "compensating" as const } }
    : { status: "compensating" as const };
  return noted({ ...instance, ...change, error: reason, dueAt: now }, "cancel", now, undefined, reason);
}

function noted(
  instance: SagaInstance,
  action: "retry" | "skip" | "force-complete" | "cancel",
  now: number,
  step?: string,
  reason?: string,
): SagaInstance {
  const base = { action, attempt: 1, startedAt: now, endedAt: now };
  const entry = { ...(step === undefined ? {} : { step }), ...base, ...(reason ? { error: reason } : {}) };
  return withHistory(instance, entry);
}

function nothingTo(action: string, { id, status }: SagaInstance, step?: string): MillstreamError {
  const what = step === undefined ? "" : ` step ${describe(step)} of`;
  return refuse("NOTHING_TO_DO", `Cannot ${action}${what} saga ${describe(id)}: it is ${status}`);
}

function notFound(id: string): MillstreamError {
  return new MillstreamError("NOT_FOUND", `Cannot find saga ${describe(id)}`, { details: { id } });
}

function busy(id: string): MillstreamError {
  return new MillstreamError(
    "DEADLINE_EXCEEDED",
    `Cannot change saga ${describe(id)} now: a step of it has been running for more than ${PATIENCE_MS} ms`,
  );
}
