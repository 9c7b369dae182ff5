/**
 * The start of a saga. What happens from there on is in `orchestrator.ts`.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { stringifyStrict } from "../core/json.ts";
import { validate } from "../core/schema.ts";
import type { Store } from "../ports/store.ts";
import type { Saga } from "./definition.ts";

/** Starts an instance. @returns false if the id exists: nothing was changed. */
export async function startInstance<Data>(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  saga: Saga<Data>,
  id: string,
  start: { readonly data: unknown; readonly correlationId: string },
): Promise<boolean> {
  const data = await validate(saga.schema, start.data, `data of saga "${saga.name}"`);
  stringifyStrict(data);
  const now = clock.now();
  return await store.sagas.create({
    id,
    saga: saga.name,
    status: "running",
    data,
    steps: [],
    correlationId: start.correlationId,
    dueAt: now,
    startedAt: now,
    updatedAt: now,
  });
}
