/**
 * What is wrong with how somebody read the events of a store.
 *
 * @module
 */

/** An event as a reader met it. */
export interface Seen {
  readonly position: bigint;
  readonly stream: string;
  readonly version: number;
}

/** Counts of what must not happen. */
export interface Verdict {
  /** Events that were never read. */
  readonly skipped: number;
  /** Events read more than once. */
  readonly repeated: number;
  /** Events read after one with a higher position. */
  readonly outOfOrder: number;
  /** Events of a stream that did not come right after the one with the version before. */
  readonly inverted: number;
}

/** Nothing is wrong. */
export const FLAWLESS: Verdict = { skipped: 0, repeated: 0, outOfOrder: 0, inverted: 0 };

/** Compares what was read, in the order in which it was read, with the positions of all events there are. */
export function verdict(read: readonly Seen[], all: ReadonlySet<bigint>): Verdict {
  const seen = new Set<bigint>();
  const versions = new Map<string, number>();
  let [repeated, outOfOrder, inverted, last] = [0, 0, 0, 0n];
  for (const { position, stream, version } of read) {
    if (seen.has(position)) repeated++;
    seen.add(position);
    if (position < last) outOfOrder++;
    last = position;
    if (version !== (versions.get(stream) ?? 0) + 1) inverted++;
    versions.set(stream, version);
  }
  const skipped = [...all].filter((position) => !seen.has(position)).length;
  return { skipped, repeated, outOfOrder, inverted };
}
