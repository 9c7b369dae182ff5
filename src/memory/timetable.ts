/**
 * Things that wait for their time, with one timer for all of them.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { heap } from "./heap.ts";

/** What waits, by time. */
export interface Timetable<T> {
  readonly size: number;
  /** Hands `item` out after `delayMs`. Items of the same time come in the order they were added. */
  add(item: T, delayMs: number): void;
  /** Hands nothing out any more. */
  close(): void;
}

/** An empty {@linkcode Timetable}. `onDue` gets everything that is due at once. */
export function timetable<T>(clock: Clock, onDue: (items: readonly T[]) => void): Timetable<T> {
  const waiting = heap<{ item: T; due: number; order: number }>((a, b) =>
    a.due < b.due || (a.due === b.due && a.order < b.order)
  );
  let order = 0;
  let timer: { due: number; cancel: () => void } | undefined;

  function arm(): void {
    const next = waiting.peek();
    if (!next || (timer && timer.due <= next.due)) return;
    timer?.cancel();
    timer = { due: next.due, cancel: clock.after(Math.max(0, next.due - clock.monotonic()), fire) };
  }

  function fire(): void {
    timer = undefined;
    const now = clock.monotonic();
    const due: T[] = [];
    // A timer may fire a fraction of a millisecond early, and long ones are cut short: what is not due is armed again.
    for (let next = waiting.peek(); next && next.due <= now; next = waiting.peek()) {
      due.push(next.item);
      waiting.pop();
    }
    arm();
    if (due.length > 0) onDue(due);
  }

  return {
    get size() {
      return waiting.size;
    },
    add(item, delayMs) {
      waiting.push({ item, due: clock.monotonic() + delayMs, order: order++ });
      arm();
    },
    close() {
      timer?.cancel();
      timer = { due: -Infinity, cancel: () => {} };
    },
  };
}
