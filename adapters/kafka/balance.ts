/**
 * Who gets which partition when the members of a group change.
 *
 * @module
 */

/** A member that asks for partitions. */
export interface Candidate {
  readonly id: string;
  /** Partitions with deliveries that are out: taking them away would abort their handlers. */
  readonly claims: readonly number[];
}

/**
 * Deals partitions 0 to `count - 1` out. A partition that somebody claims stays there; all others go, one by one, to
 * who has the fewest. Every member's share may differ by what is claimed: {@linkcode surplus} evens it out.
 */
export function deal(
  candidates: readonly Candidate[],
  count: number,
): ReadonlyMap<string, readonly number[]> {
  const ids = candidates.map(({ id }) => id).sort();
  const shares = new Map<string, number[]>(ids.map((id) => [id, []]));
  const taken = new Set<number>();
  for (const { id, claims } of candidates) {
    for (const partition of claims) {
      if (partition >= count || taken.has(partition)) continue;
      taken.add(partition);
      shares.get(id)!.push(partition);
    }
  }
  for (let partition = 0; partition < count; partition++) {
    if (taken.has(partition)) continue;
    let fewest = ids[0]!;
    for (const id of ids) if (shares.get(id)!.length < shares.get(fewest)!.length) fewest = id;
    shares.get(fewest)!.push(partition);
  }
  return shares;
}

/** How many partitions a member has beyond its fair share of `count` among `members`. */
export function surplus(own: number, count: number, members: number): number {
  return Math.max(0, own - Math.ceil(count / Math.max(1, members)));
}

/** Whether a member has so few that the group should be dealt anew. */
export function isStarved(own: number, count: number, members: number): boolean {
  return own < Math.floor(count / Math.max(1, members));
}
