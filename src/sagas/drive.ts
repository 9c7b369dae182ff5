/**
 * Drives one claimed instance: makes its moves, saves what came of each together with the intent of the next, and gives
 * the claim back when the instance ends, has to wait, or the process stops.
 *
 * @module
 */
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import { type ClaimedSaga, isFinal, type SagaInstance } from "../ports/saga_store.ts";
import { definitionOf, type Move, type Plan, plan, recordOf, succeeded } from "./advance.ts";
import { afterFailure, afterLook, attempt, changed, type Outcome } from "./attempt.ts";
import { childOf, endSignals } from "./child.ts";
import type { Saga } from "./definition.ts";
import { observe, type SagaParts } from "./parts.ts";
import { NO_EFFECTS, persistently, type SaveEffects, type Saver } from "./saver.ts";

/** An instance under way. */
export interface Drive {
  readonly claim: ClaimedSaga;
  /** Resolves with the instance as it was saved last, when this process is done with it. Never rejects. */
  readonly finished: Promise<SagaInstance>;
  /** Stops at once. A shutdown is never a failure: the claim is given back with everything as it was saved last. */
  stop(reason: Error): void;
}

/** How long an instance that no definition fits is left alone. */
const PARKED_MS = 60_000;

/** Drives an instance. @param intended Moves whose intent is saved already. */
export function drive(
  parts: SagaParts,
  saver: Saver,
  registered: Saga | undefined,
  claim: ClaimedSaga,
  intended?: readonly Move[],
): Drive {
  const { store, clock } = parts;
  const { instance: { id } } = claim;
  const saga = definitionOf(registered, claim.instance);
  const busy = new Map<string, AbortController>();
  const giveUp = new AbortController();
  let current = claim.instance;
  let stopped: Error | undefined;
  let turn: Promise<void> = Promise.resolve();
  let finish = (_instance: SagaInstance): void => {};
  const finished = new Promise<SagaInstance>((resolve) => finish = resolve);

  /** One after another: each save builds on the one before. */
  function exclusive(work: () => Promise<void>): void {
    turn = turn.then(work).catch(failed);
  }

  function failed(thrown: unknown): void {
    const error = toError(thrown);
    const isLost = isMillstreamError(error, "LEASE_LOST");
    if (isLost) parts.observer({ kind: "lease-lost", what: "saga", id });
    else parts.observer({ kind: "loop-failed", loop: `saga ${id}`, error }); // the lease runs out
    stop(isLost ? error : leaseGivenUp(id, error));
    finish(current);
  }

  function stop(reason: Error): void {
    stopped ??= reason;
    giveUp.abort(reason);
    for (const abort of busy.values()) abort.abort(reason);
    if (isMillstreamError(reason, "LEASE_LOST")) finish(current);
  }

  function begin(moves: readonly Move[]): void {
    for (const move of moves) void make(move);
  }

  async function make(move: Move): Promise<void> {
    const abort = new AbortController();
    busy.set(move.step.name, abort);
    if (stopped) abort.abort(stopped);
    let outcome: Outcome | undefined;
    try {
      outcome = await attempt(parts, current, move, abort);
    } catch {
      // Stopped: the step is in doubt, and whoever resumes runs it again under the same key.
    }
    exclusive(async () => {
      busy.delete(move.step.name);
      if (isMillstreamError(stopped, "LEASE_LOST")) return;
      if (outcome) await settle(move, outcome);
      else if (busy.size === 0) await advance(current, NO_EFFECTS);
    });
  }

  async function settle(move: Move, outcome: Outcome): Promise<void> {
    const now = clock.now();
    const { name } = move.step;
    if (outcome.kind === "later") return await advance(afterLook(current, move, outcome.ms, now), NO_EFFECTS);
    let failure = outcome.kind === "failed" ? outcome : undefined;
    if (outcome.kind === "done") {
      try {
        const data = await changed(saga!, current.data, outcome.change);
        await advance(
          succeeded(current, move, data, now),
          outcome.effects,
          () => observe(parts, current, name, move.kind === "run" ? "done" : "undone"),
        );
        return;
      } catch (thrown) {
        // Data and effects that are refused for good are the step's failure. All else is not.
        const error = toError(thrown);
        if (isMillstreamError(error, "LEASE_LOST") || stopped) throw error;
        failure = { kind: "failed", error, definite: false };
      }
    }
    const next = afterFailure(parts, saga!, current, move, failure!, now);
    const { status } = recordOf(next, name)!;
    const again = next.status === current.status && status !== "undo_failed";
    await advance(
      next,
      NO_EFFECTS,
      () => observe(parts, current, name, again ? "retrying" : "failed", failure!.error),
    );
  }

  /** Saves the instance with what comes next, and begins it. */
  async function advance(next: SagaInstance, effects: SaveEffects, saved = (): void => {}): Promise<void> {
    const { seen, ...planned } = stopped ? rest(next) : await planNext(next);
    const { instance, moves } = planned;
    const release = busy.size === 0 && moves.length === 0;
    const children = await Promise.all(planned.children.map((step) => childOf(instance, step, clock.now())));
    const signals = release ? endSignals(instance) : [];
    const all = children.length + signals.length === 0 ? effects : { ...effects, children, signals };
    const save = { claimed: claim, instance, release, ...(seen === undefined ? {} : { seen }) };
    await saver.save(save, all, giveUp.signal);
    current = instance;
    saved();
    if (!release) return begin(moves);
    if (isFinal(instance.status) || instance.status === "waiting") {
      observe(parts, instance, undefined, instance.status);
    }
    finish(instance);
  }

  async function planNext(next: SagaInstance): Promise<Plan & { seen?: number }> {
    const facts = { now: clock.now(), busy: new Set(busy.keys()), signals: undefined };
    const first = plan(saga!, next, facts);
    if (!first.needsSignals) return first;
    const { seen, byName } = await persistently(
      parts,
      `saga ${id}`,
      giveUp.signal,
      () => store.sagas.signals(id),
    );
    return { ...plan(saga!, next, { ...facts, signals: byName }), seen };
  }

  function rest(instance: SagaInstance): Plan & { seen?: number } {
    return { instance: { ...instance, dueAt: clock.now() }, moves: [], children: [], needsSignals: false };
  }

  async function park(): Promise<void> {
    const { instance } = claim;
    const { saga: name, version, status, parked } = instance;
    const reason = registered
      ? `This process has no version ${version} of saga "${name}" with all steps of the instance`
      : `This process has no saga "${name}"`;
    const next: SagaInstance = {
      ...instance,
      status: "needs_migration",
      parked: { status: parked?.status ?? status, reason },
      dueAt: clock.now() + PARKED_MS,
    };
    await saver.save({ claimed: claim, instance: next, release: true }, NO_EFFECTS, giveUp.signal);
    if (!parked) observe(parts, next, undefined, next.status);
    finish(next);
  }

  if (!saga) exclusive(park);
  else if (intended) begin(intended);
  else exclusive(() => advance(unparked(current), NO_EFFECTS));
  return { claim, finished, stop };
}

function unparked({ parked, ...instance }: SagaInstance): SagaInstance {
  return parked ? { ...instance, status: parked.status } : instance;
}

function leaseGivenUp(id: string, cause: Error): MillstreamError {
  return new MillstreamError("LEASE_LOST", `Cannot go on with saga "${id}": ${cause.message}`, { cause });
}
