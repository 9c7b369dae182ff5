/**
 * How groups stand.
 *
 * @module
 */
import type { GroupLag } from "../../src/ports/broker.ts";
import { type KafkaDriver, partitionKey } from "./driver.ts";
import type { GroupNames } from "./names.ts";
import type { Partition } from "./partition.ts";
import { decodeProgress } from "./progress.ts";

/**
 * Counts what a group has not settled, from its committed progress, and more exactly for partitions that are known here.
 *
 * @param now Wall clock in milliseconds.
 */
export async function countGroup(
  driver: KafkaDriver,
  names: GroupNames,
  now: number,
  own: ReadonlyMap<string, Partition> = new Map(),
): Promise<Omit<GroupLag, "dead">> {
  const topics = [names.topic, names.redriven];
  const [committed, ...bounds] = await Promise.all([
    driver.committed(names.groupId, topics),
    ...topics.flatMap((topic) => [driver.offsets(topic, "start"), driver.offsets(topic, "end")]),
  ]);
  const progress = new Map(committed.map((at) => [partitionKey(at), decodeProgress(at.offset, at.metadata)]));
  const total = { ready: 0, inFlight: 0, delayed: 0 };
  for (const [index, topic] of topics.entries()) {
    const [starts = [], ends = []] = bounds.slice(index * 2);
    for (const [partition, end] of ends.entries()) {
      const name = partitionKey({ topic, partition });
      const start = starts[partition] ?? 0;
      const known = own.get(name);
      const counts = known ? countOwn(known, end, now) : countFrom(progress.get(name), start, end, now);
      total.ready += counts.ready;
      total.inFlight += counts.inFlight;
      total.delayed += counts.delayed;
    }
  }
  return total;
}

type Counts = Omit<GroupLag, "dead">;

function countOwn({ unsettled, inherited, next, out }: Partition, end: number, now: number): Counts {
  let delayed = 0;
  for (const { notBefore } of unsettled.values()) if (notBefore > now) delayed++;
  let unread = 0;
  for (const { offset } of inherited.values()) if (offset >= next) unread++;
  const settledAhead = inherited.size > 0 ? unread : 0;
  const rest = Math.max(0, end - next);
  return { inFlight: out, delayed, ready: unsettled.size - out - delayed + Math.max(rest, settledAhead) };
}

function countFrom(
  progress: ReturnType<typeof decodeProgress> = { low: 0, high: 0, unsettled: [] },
  start: number,
  end: number,
  now: number,
): Counts {
  const delayed = progress.unsettled.filter(({ notBefore }) => notBefore > now).length;
  const inFlight = progress.unsettled.filter(({ notBefore, seen }) => seen && notBefore <= now).length;
  const behind = progress.unsettled.length - delayed - inFlight;
  return { inFlight, delayed, ready: behind + Math.max(0, end - Math.max(progress.high, start)) };
}
