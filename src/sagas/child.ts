/**
 * Sagas within sagas: a child is created with the save that lets its parent wait, tells its parent how it ended with the
 * save that ends it, and is compensated when its parent is.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import { isFinal, type SagaInstance } from "../ports/saga_store.ts";
import type { Later } from "./attempt.ts";
import type { Step } from "./definition.ts";
import { newInstance } from "./instance.ts";
import type { SagaParts } from "./parts.ts";
import type { SaveEffects } from "./saver.ts";

const LEASE_MS = 5_000;
const LOOK_MS = 500;

/** The child of a step. */
export async function childOf(
  instance: SagaInstance,
  { name, child }: Step<unknown>,
  now: number,
): Promise<SagaInstance> {
  const { saga, data } = child!;
  const start = { data: data(instance.data), correlationId: instance.correlationId };
  const made = await newInstance(saga, `${instance.id}/${name}`, start, now);
  return { ...made, parent: { id: instance.id, step: name } };
}

/** What the parent is told when its child has ended. */
export function endSignals(instance: SagaInstance): SaveEffects["signals"] {
  const { parent, status, data, error } = instance;
  if (!parent || !isFinal(status)) return [];
  return [{ id: parent.id, name: parent.step, text: JSON.stringify({ status, data, error }) }];
}

/** Turns a child to compensating, and says whether it has come to its end. */
export async function undoChild({ store, clock, owner }: SagaParts, id: string): Promise<Later | undefined> {
  const claimed = await store.sagas.take(id, owner, LEASE_MS);
  if (!claimed) return await store.sagas.load(id) ? { laterMs: LOOK_MS } : undefined; // somebody drives it
  const { instance } = claimed;
  const { status } = instance;
  const now = clock.now();
  const undone = status === "compensated" || status === "compensation_failed";
  // A child that is past its pivot is found out about when it is compensated: its definition knows.
  const next: SagaInstance = undone || status === "compensating" ? instance : {
    ...instance,
    status: "compensating",
    error: "Its parent is compensating",
    updatedAt: now,
    dueAt: now,
  };
  await store.sagas.save([{ claimed, instance: next, release: true }]);
  if (status === "compensated") return undefined;
  if (status !== "compensation_failed") return { laterMs: LOOK_MS };
  throw new MillstreamError("REFUSED", `Cannot undo child "${id}": its own compensation failed`, {
    details: { reason: "CHILD_FAILED" },
  });
}
