/**
 * Things that wait for their time, with one timer for all of them.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { type Heap, heap } from "./heap.ts";

/** What waits, by time. */
export interface Timetable<T> {
  readonly size: number;
  /**
   * Hands `item` out after `delayMs`. Items of the same time come in the order they were added. Returns how to take it
   * back before.
   */
  add(item: T, delayMs: number): () => void;
  /** Hands nothing out any more. */
  close(): void;
}

interface Entry<T> {
  /** `undefined` once it was handed out or taken back. */
  item: T | undefined;
  readonly due: number;
  readonly order: number;
}

/** Entries taken back stay until they are due, unless they are more than these and more than those that wait. */
const MAX_GONE = 1_000;

/** An empty {@linkcode Timetable}. `onDue` gets everything that is due at once. */
export function timetable<T extends object>(
  clock: Clock,
  onDue: (items: readonly T[]) => void,
): Timetable<T> {
  let entries = emptyHeap<T>();
  let order = 0;
  let size = 0;
  let timer: { due: number; cancel: () => void } | undefined;

  function arm(): void {
    const next = entries.peek();
    if (!next || (timer && timer.due <= next.due)) return;
    timer?.cancel();
    timer = { due: next.due, cancel: clock.after(Math.max(0, next.due - clock.monotonic()), fire) };
  }

  function fire(): void {
    timer = undefined;
    const now = clock.monotonic();
    const due: T[] = [];
    // A timer may fire a fraction of a millisecond early, and long ones are cut short: what is not due is armed again.
    for (let next = entries.peek(); next && next.due <= now; next = entries.peek()) {
      if (next.item) due.push(next.item);
      next.item = undefined;
      entries.pop();
    }
    size -= due.length;
    arm();
    if (due.length > 0) onDue(due);
  }

  function takeBack(entry: Entry<T>): void {
    if (!entry.item) return;
    entry.item = undefined;
    size--;
    if (entries.size - size > Math.max(MAX_GONE, size)) sweep();
  }

  function sweep(): void {
    const kept = emptyHeap<T>();
    for (let entry = entries.pop(); entry; entry = entries.pop()) if (entry.item) kept.push(entry);
    entries = kept;
  }

  return {
    get size() {
      return size;
    },
    add(item, delayMs) {
      const entry = { item, due: clock.monotonic() + delayMs, order: order++ };
      entries.push(entry);
      size++;
      arm();
      return () => takeBack(entry);
    },
    close() {
      timer?.cancel();
      timer = { due: -Infinity, cancel: () => {} };
    },
  };
}

function emptyHeap<T>(): Heap<Entry<T>> {
  return heap((a, b) => a.due < b.due || (a.due === b.due && a.order < b.order));
}
