/**
 * Saving progress: the saves of all instances that a process drives go to the store together, each with its effects in
 * the same transaction, each refused by itself if its claim was lost.
 *
 * A store that is away for a moment is asked again until the claim is lost. Where the reply to a commit was lost, the
 * instance itself tells whether it was made, so that no effect is added twice.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { sleep } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import type { StreamAppend } from "../ports/event_store.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import type { SagaInstance, SagaSave } from "../ports/saga_store.ts";
import type { StorePorts } from "../ports/store.ts";
import { coalesced } from "./coalesce.ts";
import type { SagaParts } from "./parts.ts";

/** What commits together with an instance. */
export interface SaveEffects {
  readonly messages: readonly OutboxMessage[];
  readonly appends: readonly StreamAppend[];
  readonly children: readonly SagaInstance[];
  readonly signals: readonly { readonly id: string; readonly name: string; readonly text: string }[];
}

/** Nothing but the instance. */
export const NO_EFFECTS: SaveEffects = { messages: [], appends: [], children: [], signals: [] };

/** Saves progress. */
export interface Saver {
  /**
   * Saves an instance and its effects.
   *
   * @throws `LEASE_LOST`; `INVALID_ARGUMENT` or `REJECTED` for effects that the store refuses for good; or what the
   * store failed with last when `giveUp` aborted.
   */
  save(save: SagaSave, effects: SaveEffects, giveUp: AbortSignal): Promise<void>;
}

interface Item {
  readonly save: SagaSave;
  readonly effects: SaveEffects;
}

const RETRY = retryPolicy({ baseMs: 50, maxMs: 2_000 });
/** Errors that asking again does not change. */
const FOR_GOOD = ["INVALID_ARGUMENT", "REJECTED", "UNSERIALIZABLE", "PAYLOAD_TOO_LARGE", "CLOSED"] as const;

/**
 * Repeats a call that the store was not there for, until it answers, refuses for good, or `giveUp` aborts.
 *
 * @param call Told the number of the attempt.
 */
export async function persistently<T>(
  { clock, random, observer }: SagaParts,
  what: string,
  giveUp: AbortSignal,
  call: (attempt: number) => Promise<T>,
): Promise<T> {
  for (let attempt = 1;; attempt++) {
    try {
      return await call(attempt);
    } catch (failure) {
      if (giveUp.aborted || isMillstreamError(failure, "LEASE_LOST", ...FOR_GOOD)) throw failure;
      observer({ kind: "loop-failed", loop: what, error: toError(failure) });
      await sleep(clock, backoffDelay(attempt, RETRY, random), giveUp).catch(() => {});
    }
  }
}

/** Creates a {@linkcode Saver}. */
export function createSaver(parts: SagaParts): Saver {
  const { store, committed } = parts;
  const saveOne = coalesced<Item, boolean>(flush);

  async function flush(items: readonly Item[]): Promise<readonly boolean[]> {
    if (items.every(({ effects }) => effects === NO_EFFECTS)) {
      return await store.sagas.save(items.map(({ save }) => save));
    }
    const saved = await store.transaction((ports) => saveAll(ports, items));
    committed();
    return saved;
  }

  async function wasMade({ instance }: SagaSave): Promise<boolean> {
    const now = await store.sagas.load(instance.id);
    return JSON.stringify(now?.steps) === JSON.stringify(instance.steps) && now?.status === instance.status;
  }

  return {
    async save(save, effects, giveUp) {
      const { id } = save.instance;
      const item = { save, effects };
      await persistently(parts, `saga ${id}`, giveUp, async (attempt) => {
        if (attempt > 1 && await wasMade(save)) return;
        // In a batch, effects that are refused for good are everyone's failure: then each is on its own.
        const saved = attempt > 1 ? (await flush([item]))[0] : await saveOne(item).catch(async (failure) => {
          if (isMillstreamError(failure, ...FOR_GOOD)) return (await flush([item]))[0];
          throw failure;
        });
        if (!saved) throw leaseLost(id);
      });
    },
  };
}

async function saveAll(ports: StorePorts, items: readonly Item[]): Promise<readonly boolean[]> {
  const saved = await ports.sagas.save(items.map(({ save }) => save));
  const effects = items.filter((_, index) => saved[index]).map((item) => item.effects);
  for (const append of effects.flatMap(({ appends }) => appends)) await ports.events.append([append]);
  const messages = effects.flatMap((one) => one.messages);
  if (messages.length > 0) await ports.outbox.add(messages);
  const children = effects.flatMap((one) => one.children);
  if (children.length > 0) await ports.sagas.create(children);
  for (const { id, name, text } of effects.flatMap(({ signals }) => signals)) {
    await ports.sagas.signal(id, name, text);
  }
  return saved;
}

function leaseLost(id: string): MillstreamError {
  return new MillstreamError("LEASE_LOST", `Cannot save saga "${id}": another worker took over`, {
    details: { id },
  });
}
