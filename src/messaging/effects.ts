/**
 * Effects that cost nothing where there are none: the unit of work begins when a handler first publishes, appends or
 * asks for SQL.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { Store } from "../ports/store.ts";
import type { Effects } from "./context.ts";
import type { MessageFactory } from "./factory.ts";
import { unitOfWork, type UnitOptions, type UnitOutcome } from "./unit_of_work.ts";

/** The effects of one try: plain data, as one is made for every message. */
export interface UnitOnDemand {
  /** Present when a unit of work has begun. */
  unit: Unit | undefined;
  hasEnded: boolean;
}

interface Unit {
  readonly effects: Effects;
  readonly outcome: Promise<UnitOutcome<void>>;
  succeed(): void;
  fail(failure: unknown): void;
}

/** The effects of the unit of work, which begins now if it had not. @throws `CLOSED` after the end */
export function begun(
  demand: UnitOnDemand,
  store: Store,
  factory: MessageFactory,
  options: () => UnitOptions,
): Effects {
  if (demand.unit) return demand.unit.effects;
  if (demand.hasEnded) {
    throw new MillstreamError("CLOSED", "Cannot use the context after its handler has ended");
  }
  demand.unit = beginUnit(store, factory, options());
  return demand.unit.effects;
}

function beginUnit(store: Store, factory: MessageFactory, options: UnitOptions): Unit {
  let effects: Effects | undefined;
  let succeed = (): void => {};
  let fail = (_failure: unknown): void => {};
  const ended = new Promise<void>((resolve, reject) => {
    succeed = resolve;
    fail = reject;
  });
  const outcome = unitOfWork(store, factory, options, (given) => {
    effects = given;
    return ended;
  });
  outcome.catch(() => {}); // reported by who ends it
  return { effects: effects!, outcome, succeed, fail };
}

/** The handler has ended well: commits. `undefined` if there is nothing to commit. */
export function commit(demand: UnitOnDemand): Promise<UnitOutcome<void>> | undefined {
  demand.hasEnded = true;
  demand.unit?.succeed();
  return demand.unit?.outcome;
}

/** The handler has failed: commits nothing. Resolves when that is certain. */
export async function rollback(demand: UnitOnDemand, failure: unknown): Promise<void> {
  demand.hasEnded = true;
  demand.unit?.fail(failure);
  await demand.unit?.outcome.catch(() => {});
}

/** Effects of one try, for those who make few. */
export interface EffectsOnDemand extends Effects {
  /** Begins a unit of work now, as there is something to commit even if the handler has no effects. */
  begin(): void;
  /** The handler has ended well: commits. `undefined` if there is nothing to commit. */
  commit(): Promise<UnitOutcome<void>> | undefined;
  /** The handler has failed: commits nothing. Resolves when that is certain. */
  rollback(failure: unknown): Promise<void>;
}

/** No effects yet. `options` is called when there are. */
export function effectsOnDemand(
  store: Store,
  factory: MessageFactory,
  options: () => UnitOptions,
): EffectsOnDemand {
  const demand: UnitOnDemand = { unit: undefined, hasEnded: false };
  const effects = (): Effects => begun(demand, store, factory, options);
  return {
    begin: () => void effects(),
    publish: async (...call) => await effects().publish(...call),
    send: async (...call) => await effects().send(...call),
    append: async (...call) => await effects().append(...call),
    get sql() {
      return effects().sql;
    },
    commit: () => commit(demand),
    rollback: (failure) => rollback(demand, failure),
  };
}
