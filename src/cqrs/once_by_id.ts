/**
 * Commands that run once per id: the result commits with the effects.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { fingerprint, type Json } from "../core/fingerprint.ts";
import { stringifyStrict } from "../core/json.ts";
import type { Message } from "../core/message.ts";
import { runOnce } from "../idempotency/idempotent.ts";
import type { DispatchResult } from "../messaging/context.ts";
import type { IdempotencyKeys } from "../ports/idempotency.ts";
import type { StorePorts } from "../ports/store.ts";

/** Where results are kept, and for how long. */
export interface OnceByIdParts {
  readonly keys: IdempotencyKeys;
  readonly clock: Clock;
  readonly ttlMs: number | undefined;
}

/** How long a caller waits for another one with the same id, in milliseconds. */
const WAIT_MS = 30_000;
const DAY_MS = 86_400_000;

/**
 * Runs a command, or returns what it came to before under the same id.
 *
 * @param run Runs it, and calls `after` in the transaction that commits its effects: a crash leaves both or neither.
 */
export async function onceById(
  { keys, clock, ttlMs = DAY_MS }: OnceByIdParts,
  command: Message,
  signal: AbortSignal,
  run: (
    command: Message,
    signal: AbortSignal,
    after: (ports: StorePorts, result: DispatchResult) => Promise<void>,
  ) => Promise<DispatchResult>,
): Promise<DispatchResult> {
  const key = `command/${command.type}/${command.id}`;
  const print = await fingerprint(command.data as Json);
  const options = { key, fingerprint: print, waitMs: WAIT_MS, ttlMs, clock };
  const { result } = await runOnce(keys, options, async (lost, claim) => {
    let text = "";
    await run(command, AbortSignal.any([signal, lost]), async ({ idempotency }, outcome) => {
      const { result: value, ...rest } = outcome;
      text = stringifyStrict(value === undefined ? rest : outcome);
      await claim.complete(idempotency, text); // fenced: a caller that was taken over commits nothing
    });
    return text;
  });
  return JSON.parse(result) as DispatchResult;
}
