/**
 * Keeps topics from growing for ever: removes from time to time what every group has settled and nobody wants to replay.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { toError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";
import type { RedisConnection } from "../ports/redis.ts";
import { topicKeys } from "./keys.ts";
import { TRIM } from "./lua/trim.ts";

/**
 * What stays in a topic although every group has settled it. Both hold: an entry goes when it is older than `ageMs`
 * *and* not among the last `length`. What a group has not settled stays, however old.
 */
export interface Retention {
  /** For how long new groups and readers of the log can go back, in milliseconds. @default 0 */
  readonly ageMs?: number;
  /** How many entries stay at least. @default 0 */
  readonly length?: number;
}

/** What {@linkcode caretaker} needs. */
export interface CaretakerContext {
  readonly connection: RedisConnection;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly prefix: string;
  readonly timeoutMs: number;
  readonly retention: Retention;
}

/** Looks after topics. */
export interface Caretaker {
  /** From now on also after this one. */
  watch(topic: string): void;
  stop(): void;
}

const PERIOD_MS = 10_000;
/** After so many there may be more to remove at once. */
const MANY = 5_000;
/** How often the same group is reported for holding back the same topic. */
const REMIND_MS = 600_000;

/** Refuses a {@linkcode Retention} out of range. */
export function checkRetention({ ageMs = 0, length = 0 }: Retention): void {
  checkRange("retention.ageMs", ageMs, 0, 10 * 366 * 86_400_000);
  checkRange("retention.length", length, 0, 1e12, true);
}

/** Creates a {@linkcode Caretaker}, which does nothing before it has something to watch. */
export function caretaker(context: CaretakerContext): Caretaker {
  const { connection, clock, observe, prefix, timeoutMs, retention: { ageMs = 0, length = 0 } } = context;
  const topics = new Set<string>();
  const standing = new Map<string, string>();
  const reported = new Map<string, number>();
  let cancel: (() => void) | undefined;
  let stopped = false;

  function watch(topic: string): void {
    topics.add(topic);
    if (!stopped) cancel ??= clock.after(0, () => void round());
  }

  async function round(): Promise<void> {
    for (const topic of topics) {
      try {
        while (!stopped && await trim(topic) > MANY);
      } catch (thrown) {
        observe({ kind: "loop-failed", loop: `redis retention of ${topic}`, error: toError(thrown) });
      }
    }
    if (!stopped) cancel = clock.after(PERIOD_MS, () => void round());
  }

  async function trim(topic: string): Promise<number> {
    const { log, groups, known } = topicKeys(prefix, topic);
    const reply = await connection.script(TRIM, [log, groups, known], [Math.ceil(ageMs), length], {
      timeoutMs,
    });
    const [removed, group, oldest, lateMs] = reply as readonly [number, string, string, number];
    const stands = `${group} ${oldest}`;
    // One that is only slow has got further since the last time.
    if (lateMs > 0 && standing.get(topic) === stands) remind(topic, group, lateMs);
    standing.set(topic, stands);
    return removed;
  }

  function remind(topic: string, group: string, lateMs: number): void {
    const name = `${topic}/${group}`;
    const now = clock.monotonic();
    if (now - (reported.get(name) ?? -Infinity) < REMIND_MS) return;
    reported.set(name, now);
    observe({ kind: "topic-pinned", topic, group, lateMs });
  }

  return {
    watch,
    stop() {
      stopped = true;
      cancel?.();
    },
  };
}
