/**
 * What a member knows of one partition that is its own.
 *
 * @module
 */
import type { EncodedMessage } from "../../src/core/message.ts";
import type { GroupOffset, TopicPartition } from "./driver.ts";
import { encodeProgress, type Progress, type Unsettled } from "./progress.ts";

/** A message between its arrival and its settlement. */
export interface Item {
  readonly partition: Partition;
  readonly offset: number;
  readonly message: EncodedMessage;
  readonly redrives: number;
  attempt: number;
  /** It was handed out, and neither retried nor released since. */
  seen: boolean;
  notBefore: number;
  firstFailedAt: number;
}

/** An own partition. */
export interface Partition extends TopicPartition {
  /** Resolves when it is known how far the group is. */
  readonly loaded: Promise<void>;
  /** It belongs to another member now. */
  gone: boolean;
  /** What was read and is not settled, in the order of offsets. */
  readonly unsettled: Map<number, Item>;
  /** How many of them are out. */
  out: number;
  /** The next offset to read. */
  next: number;
  /** Whatever is before it was handed out, settled or tried. */
  high: number;
  /** What the predecessor left behind and is not read yet. */
  readonly inherited: Map<number, Unsettled>;
  /** There is something to commit. */
  dirty: boolean;
  /** A commit of it is under way. */
  committing: boolean;
}

/** A partition that was just assigned. */
export function newPartition({ topic, partition }: TopicPartition, loaded: Promise<void>): Partition {
  return {
    topic,
    partition,
    loaded,
    gone: false,
    unsettled: new Map(),
    out: 0,
    next: 0,
    high: 0,
    inherited: new Map(),
    dirty: false,
    committing: false,
  };
}

/** Goes on where the group is. */
export function inherit(partition: Partition, { low, high, unsettled }: Progress): void {
  partition.next = low;
  partition.high = high;
  for (const entry of unsettled) partition.inherited.set(entry.offset, entry);
}

/** Whether the record at `offset` is new: neither read before nor settled by a predecessor. */
export function isNew({ next, high, inherited }: Partition, offset: number): boolean {
  return offset >= next && (offset >= high || inherited.has(offset));
}

/** What to commit. */
export function commitOf(partition: Partition): GroupOffset {
  const { topic, partition: number, unsettled, inherited, next, high } = partition;
  const [first = next] = unsettled.keys();
  const known: Unsettled[] = [];
  for (const item of unsettled.values()) {
    if (item.offset >= high) break;
    known.push(item);
  }
  for (const entry of inherited.values()) if (entry.offset >= next) known.push(entry);
  const low = Math.min(first, next);
  return {
    topic,
    partition: number,
    offset: low,
    metadata: encodeProgress({ low, high: Math.max(low, high), unsettled: known }),
  };
}
