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

/** The effects of one try. */
export interface EffectsOnDemand extends Effects {
  /** Whether a unit of work has begun. */
  readonly hasBegun: boolean;
  /** Begins one now, as there is something to commit even if the handler has no effects. */
  begin(): void;
  /** The handler has ended well: commits. `undefined` if there is nothing to commit. */
  commit(): Promise<UnitOutcome<void>> | undefined;
  /** The handler has failed: commits nothing. Resolves when that is certain. */
  rollback(failure: unknown): Promise<void> | undefined;
}

/** No effects yet. `options` is called when there are. */
export function effectsOnDemand(
  store: Store,
  factory: MessageFactory,
  options: () => UnitOptions,
): EffectsOnDemand {
  let effects: Effects | undefined;
  let outcome: Promise<UnitOutcome<void>> | undefined;
  let succeed = (): void => {};
  let fail = (_failure: unknown): void => {};
  let hasEnded = false;

  function begun(): Effects {
    if (effects) return effects;
    if (hasEnded) throw new MillstreamError("CLOSED", "Cannot use the context after its handler has ended");
    const ended = new Promise<void>((resolve, reject) => {
      succeed = resolve;
      fail = reject;
    });
    outcome = unitOfWork(store, factory, options(), (given) => {
      effects = given;
      return ended;
    });
    outcome.catch(() => {}); // reported by who ends it
    return effects!;
  }

  return {
    get hasBegun() {
      return outcome !== undefined;
    },
    begin: () => void begun(),
    // deno-lint-ignore require-await -- rejects instead of throwing
    publish: async (...call) => begun().publish(...call),
    // deno-lint-ignore require-await -- rejects instead of throwing
    send: async (...call) => begun().send(...call),
    // deno-lint-ignore require-await -- rejects instead of throwing
    append: async (...call) => begun().append(...call),
    get sql() {
      return begun().sql;
    },
    commit() {
      hasEnded = true;
      succeed();
      return outcome;
    },
    rollback(failure) {
      hasEnded = true;
      fail(failure);
      return outcome?.then(() => {}, () => {});
    },
  };
}
