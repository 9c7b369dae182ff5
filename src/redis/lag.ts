/**
 * How groups stand.
 *
 * @module
 */
import type { GroupLag, GroupStatus } from "../ports/broker.ts";
import type { RedisConnection } from "../ports/redis.ts";
import { type GroupKeys, groupKeys, laneKeys, topicKeys, topicsKey } from "./keys.ts";
import { LAG } from "./lua/group.ts";
import { asUnavailable } from "./replies.ts";

/** A {@linkcode GroupLag} with the age of the oldest message that is not settled, if there is one. */
export interface AgedLag extends GroupLag {
  readonly oldestMs: number | undefined;
}

/** Counts one group. */
export async function groupLag(
  connection: RedisConnection,
  keys: GroupKeys,
  group: string,
  timeoutMs: number,
): Promise<AgedLag> {
  try {
    const names = [...laneKeys(keys), keys.delayed, keys.later, keys.dead];
    const reply = await connection.script(LAG, names, [group], { timeoutMs });
    const [ready, inFlight, delayed, dead, age] = reply as readonly [number, number, number, number, number];
    return { ready, inFlight, delayed, dead, oldestMs: age < 0 ? undefined : age };
  } catch (error) {
    throw asUnavailable(error);
  }
}

/** Counts all groups that were ever joined, of one topic or of all, sorted by topic and group. */
export async function allGroups(
  connection: RedisConnection,
  prefix: string,
  topic: string | undefined,
  timeoutMs: number,
): Promise<readonly GroupStatus[]> {
  const members = async (key: string): Promise<readonly string[]> => {
    try {
      return (await connection.call("smembers", [key], { timeoutMs }) as readonly string[]).toSorted();
    } catch (error) {
      throw asUnavailable(error);
    }
  };
  const found: GroupStatus[] = [];
  // One after the other: this is asked rarely, and must not push aside what is asked all the time.
  for (const name of topic === undefined ? await members(topicsKey(prefix)) : [topic]) {
    for (const group of await members(topicKeys(prefix, name).groups)) {
      const { oldestMs, ...lag } = await groupLag(
        connection,
        groupKeys(prefix, name, group),
        group,
        timeoutMs,
      );
      found.push({ topic: name, group, ...lag, ...(oldestMs === undefined ? {} : { oldestMs }) });
    }
  }
  return found;
}
