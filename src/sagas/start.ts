/**
 * The start of a saga. What happens from there on is in `drive.ts`.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import type { SagaHolder, SagaInstance } from "../ports/saga_store.ts";
import { plan } from "./advance.ts";
import { coalesced } from "./coalesce.ts";
import type { Saga } from "./definition.ts";
import { newInstance } from "./instance.ts";
import type { Orchestrator } from "./orchestrator.ts";
import type { SagaParts } from "./parts.ts";

/** What an instance starts with. */
export interface SagaStart {
  readonly data: unknown;
  readonly correlationId: string;
}

/**
 * Starts an instance. False if there is one of this id, started with the same data: nothing was changed.
 *
 * @throws `IDEMPOTENCY_KEY_REUSED` if it was started with other data, `INVALID_ARGUMENT` if another saga has the id.
 */
export type StartInstance = <Data>(saga: Saga<Data>, id: string, start: SagaStart) => Promise<boolean>;

/**
 * Creates the function that starts instances. Where the orchestrator runs in this process and has a slot free, the
 * instance is claimed with the statement that creates it, and goes on at once.
 */
export function starter(
  { store, clock }: Pick<SagaParts, "store" | "clock">,
  orchestrator: () => Orchestrator | undefined,
): StartInstance {
  const createFree = coalesced((instances: readonly SagaInstance[]) => store.sagas.create(instances));
  const createHeld = coalesced((items: readonly { instance: SagaInstance; holder: SagaHolder }[]) =>
    store.sagas.create(items.map(({ instance }) => instance), items[0]!.holder)
  );

  async function create(saga: Saga, instance: SagaInstance): Promise<boolean> {
    const first = plan(saga, instance, { now: clock.now(), busy: new Set(), signals: undefined });
    const runs = first.moves.length > 0 && first.children.length === 0 && !first.needsSignals;
    const reserved = runs ? orchestrator()?.reserve() : undefined;
    if (!reserved) {
      const created = await createFree(instance);
      orchestrator()?.wake();
      return created;
    }
    const { owner, leaseMs } = reserved;
    try {
      const created = await createHeld({ instance: first.instance, holder: { owner, leaseMs } });
      if (created) reserved.drive({ instance: first.instance, owner, epoch: 1 }, first.moves);
      else reserved.giveUp();
      return created;
    } catch (failure) {
      reserved.giveUp();
      throw failure;
    }
  }

  return async (saga, id, start) => {
    const instance = await newInstance(saga, id, start, clock.now());
    if (await create(saga as Saga, instance)) return true;
    const other = await store.sagas.load(id);
    if (other) checkSame(instance, other);
    return false;
  };
}

function checkSame(mine: SagaInstance, other: SagaInstance): void {
  const { id, saga } = mine;
  if (other.saga !== saga) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot start saga "${saga}" with id ${
        describe(id)
      }: saga "${other.saga}" has it, and an id belongs to one saga`,
      { details: { id, saga: other.saga } },
    );
  }
  if (other.fingerprint === undefined || other.fingerprint === mine.fingerprint) return;
  throw new MillstreamError(
    "IDEMPOTENCY_KEY_REUSED",
    `Cannot start saga "${saga}" with id ${describe(id)}: it was started with other data`,
    { details: { id } },
  );
}
