/**
 * A new instance of a saga.
 *
 * @module
 */
import { checkStrict } from "../core/json.ts";
import { checkText } from "../core/names.ts";
import { validate } from "../core/schema.ts";
import type { SagaInstance } from "../ports/saga_store.ts";
import type { Saga } from "./definition.ts";

/** An instance that has done nothing yet. @throws `VALIDATION_FAILED`, `UNSERIALIZABLE`, `INVALID_ARGUMENT` */
export async function newInstance<Data>(
  { name, schema, options: { version = 1, deadlineMs } }: Saga<Data>,
  id: string,
  { data, correlationId }: { readonly data: unknown; readonly correlationId: string },
  now: number,
): Promise<SagaInstance> {
  const valid = await validate(schema, data, `data of saga "${name}"`);
  checkStrict(valid);
  return {
    id: checkText("saga id", id),
    saga: name,
    version,
    status: "running",
    data: valid,
    steps: [],
    correlationId,
    fingerprint: fingerprint(valid),
    dueAt: now,
    ...(deadlineMs === undefined ? {} : { deadlineAt: now + deadlineMs }),
    startedAt: now,
    updatedAt: now,
  };
}

/**
 * Tells data from other data, whatever the order of keys: 53 bits of a hash that is fast, not one that withstands
 * people who search for collisions. Source: "cyrb53" by bryc, public domain.
 */
export function fingerprint(data: unknown): string {
  const text = canonical(data);
  let high = 0xdeadbeef;
  let low = 0x41c6ce57;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    high = Math.imul(high ^ code, 2654435761);
    low = Math.imul(low ^ code, 1597334677);
  }
  high = Math.imul(high ^ (high >>> 16), 2246822507) ^ Math.imul(low ^ (low >>> 13), 3266489909);
  low = Math.imul(low ^ (low >>> 16), 2246822507) ^ Math.imul(high ^ (high >>> 13), 3266489909);
  return (4294967296 * (2097151 & low) + (high >>> 0)).toString(36);
}

/** JSON with the keys in order. A property that is `undefined` is as good as absent. */
function canonical(value: unknown): string {
  if (typeof value !== "object" || value === null) return JSON.stringify(value) ?? "null";
  if (Array.isArray(value)) return `[${value.map(canonical).join()}]`;
  const entries = Object.entries(value).filter(([, item]) => item !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, item]) => `${JSON.stringify(key)}:${canonical(item)}`).join()}}`;
}
