/**
 * The start of a saga. What happens from there on is in `orchestrator.ts`.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { stringifyStrict } from "../core/json.ts";
import { checkText } from "../core/names.ts";
import { validate } from "../core/schema.ts";
import type { Store } from "../ports/store.ts";
import type { Saga } from "./definition.ts";

/**
 * Starts an instance.
 *
 * @returns false if the saga has an instance of this id: nothing was changed.
 * @throws `INVALID_ARGUMENT` if another saga has one.
 */
export async function startInstance<Data>(
  { store, clock }: { readonly store: Store; readonly clock: Clock },
  saga: Saga<Data>,
  id: string,
  start: { readonly data: unknown; readonly correlationId: string },
): Promise<boolean> {
  const data = await validate(saga.schema, start.data, `data of saga "${saga.name}"`);
  stringifyStrict(data);
  const now = clock.now();
  const created = await store.sagas.create({
    id: checkText("saga id", id),
    saga: saga.name,
    status: "running",
    data,
    steps: [],
    correlationId: start.correlationId,
    dueAt: now,
    startedAt: now,
    updatedAt: now,
  });
  const other = created ? saga.name : (await store.sagas.load(id))?.saga ?? saga.name;
  if (other !== saga.name) throw idTaken(saga.name, id, other);
  return created;
}

function idTaken(saga: string, id: string, other: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot start saga "${saga}" with id "${id}": saga "${other}" has it, and an id belongs to one saga`,
    { details: { id, saga: other } },
  );
}
