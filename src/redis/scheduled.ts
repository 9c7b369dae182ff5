/**
 * Messages that were published with a delay, by their id.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { checkName } from "../core/names.ts";
import type { Scheduled } from "../ports/broker.ts";
import type { RedisConnection } from "../ports/redis.ts";
import { topicKeys } from "./keys.ts";
import { RESCHEDULE } from "./lua/publish.ts";
import { MAX_DELAY_MS } from "./publisher.ts";
import { asUnavailable } from "./replies.ts";

/** What {@linkcode redisScheduled} needs. */
export interface ScheduledContext {
  readonly connection: RedisConnection;
  readonly prefix: string;
  readonly timeoutMs: number;
  /** Called when delayed messages of a topic will be due in so many milliseconds. */
  readonly delayed: (topic: string, delayMs: number) => void;
}

/** Creates the scheduled messages of a broker. */
export function redisScheduled({ connection, prefix, timeoutMs, delayed }: ScheduledContext): Scheduled {
  async function reschedule(topic: string, id: string, delayMs: number): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    const done = await change(topic, id, Math.ceil(delayMs));
    if (done) delayed(topic, delayMs);
    return done;
  }

  async function change(topic: string, id: string, delayMs: number): Promise<boolean> {
    checkName("topic", topic);
    const keys = topicKeys(prefix, topic);
    const names = [keys.delayed, keys.delayedIds, keys.ids, keys.olderIds];
    try {
      return await connection.script(RESCHEDULE, names, [id, delayMs], { timeoutMs }) === 1;
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  return { cancel: (topic, id) => change(topic, id, -1), reschedule };
}
