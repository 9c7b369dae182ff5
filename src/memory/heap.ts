/**
 * A binary heap: the smallest comes out first, each operation in O(log n).
 *
 * @module
 */

/** A priority queue. */
export interface Heap<T> {
  readonly size: number;
  push(item: T): void;
  /** The smallest, which stays. */
  peek(): T | undefined;
  /** The smallest, taken out. */
  pop(): T | undefined;
}

/** An empty {@linkcode Heap}. `before` says whether `a` comes out before `b`. */
export function heap<T>(before: (a: T, b: T) => boolean): Heap<T> {
  const items: T[] = [];
  return {
    get size() {
      return items.length;
    },
    push(item) {
      let at = items.length;
      items.push(item);
      while (at > 0) {
        const parent = (at - 1) >> 1;
        if (!before(item, items[parent]!)) break;
        items[at] = items[parent]!;
        at = parent;
      }
      items[at] = item;
    },
    peek: () => items[0],
    pop() {
      const top = items[0];
      const last = items.pop();
      if (last !== undefined && items.length > 0) sink(items, last, before);
      return top;
    },
  };
}

/** Puts `item` in the place of the root and lets it sink to where it belongs. */
function sink<T>(items: T[], item: T, before: (a: T, b: T) => boolean): void {
  let at = 0;
  for (;;) {
    let child = 2 * at + 1;
    if (child >= items.length) break;
    if (child + 1 < items.length && before(items[child + 1]!, items[child]!)) child++;
    if (!before(items[child]!, item)) break;
    items[at] = items[child]!;
    at = child;
  }
  items[at] = item;
}
