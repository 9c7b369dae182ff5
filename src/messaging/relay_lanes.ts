/**
 * What the relay does with a topic that fails: finds the messages that the broker does not take, lets their lanes wait,
 * gives them up after their last try, and sends everything else.
 *
 * A failure counts against a message if the broker refuses it for good, or if it took another lane of the topic in the
 * same round: a broker that is down is nobody's fault.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import type { OutboxEntry } from "../ports/outbox.ts";
import { isRefusal } from "./refusal.ts";
import type { RelayParts, Sending } from "./relay.ts";
import { describeFailure } from "./failures.ts";

/** Tries of one message: half a minute in all. */
const TRIES = retryPolicy({ attempts: 6, baseMs: 1_000, maxMs: 16_000 });
/** Lanes in a row that fail without anything said against them, after which the broker counts as down. */
const DOWN_AFTER = 3;

/**
 * Sends each lane by itself. Resolves to what the broker failed with if it took nothing.
 *
 * @param round Where to begin: every round with another lane, lest the first ones hide the others.
 */
export async function sendByLane(
  { store, clock, observer, random }: RelayParts,
  { attempt, lease }: Sending,
  topic: string,
  entries: readonly OutboxEntry[],
  round: number,
): Promise<Error | undefined> {
  const doubtful: Array<{ readonly entry: OutboxEntry; readonly failure: Error }> = [];
  let alive = false;

  for (const lane of rotated(lanesOf(entries), round)) {
    await sendLane(lane);
    if (!alive && doubtful.length >= DOWN_AFTER) break;
  }
  if (!alive) return doubtful[0]?.failure;
  for (const { entry, failure } of doubtful) await refused(entry, failure);
  return undefined;

  async function sendLane(lane: readonly OutboxEntry[]): Promise<void> {
    let failure = lane.length > 1 ? await send(lane) : undefined;
    if (lane.length > 1 && !failure) return;
    if (failure && !isRefusal(failure)) return void doubtful.push({ entry: lane[0]!, failure });
    for (const entry of lane) {
      failure = await send([entry]);
      if (!failure) continue;
      if (!isRefusal(failure)) return void doubtful.push({ entry, failure });
      if (!await refused(entry, failure)) return; // the rest of the lane waits for it
    }
  }

  async function send(some: readonly OutboxEntry[]): Promise<Error | undefined> {
    const failure = await attempt(topic, some);
    if (!failure || isRefusal(failure)) alive = true;
    return failure;
  }

  /** Notes the failure. Whether the message was given up, and its lane goes on without it. */
  async function refused(entry: OutboxEntry, error: Error): Promise<boolean> {
    const tries = entry.attempts + 1;
    const last = tries >= TRIES.attempts;
    const delayMs = last ? undefined : backoffDelay(tries, TRIES, random);
    await store.outbox.markRefused(entry.position, describeFailure(error, clock.now()), delayMs, lease);
    const about = { topic, group: "outbox", id: entry.id, attempt: tries, error };
    observer(
      delayMs === undefined ? { kind: "dead-lettered", ...about } : { kind: "retried", ...about, delayMs },
    );
    return last;
  }
}

function lanesOf(entries: readonly OutboxEntry[]): readonly (readonly OutboxEntry[])[] {
  const lanes = new Map<string | undefined, OutboxEntry[]>();
  for (const entry of entries) {
    const lane = lanes.get(entry.key);
    if (lane) lane.push(entry);
    else lanes.set(entry.key, [entry]);
  }
  return [...lanes.values()];
}

function rotated<T>(items: readonly T[], by: number): readonly T[] {
  const start = by % Math.max(1, items.length);
  return [...items.slice(start), ...items.slice(0, start)];
}
