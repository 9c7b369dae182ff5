/**
 * Bounded concurrency that keeps the order of each key.
 *
 * @module
 */
import { checkRange } from "./backoff.ts";

/** Runs tasks: those of one key one after another in the order given, those of different keys side by side. */
export interface KeyedExecutor {
  /**
   * Runs `task` when a slot is free and every earlier task of the same key has settled. Tasks without a key only
   * wait for a slot. Resolves or rejects as the task does; a failed task does not stop its followers.
   */
  run<T>(key: string | undefined, task: () => Promise<T>): Promise<T>;
  /** Tasks that run now. */
  readonly active: number;
  /** Tasks that run or wait. */
  readonly size: number;
  /** Resolves when nothing runs or waits. */
  idle(): Promise<void>;
}

/**
 * Creates a {@linkcode KeyedExecutor}.
 *
 * @param concurrency How many tasks run at once. What waits is not bounded here: the caller pulls only
 * as much as there are free slots.
 */
export function keyedExecutor(concurrency: number): KeyedExecutor {
  checkRange("concurrency", concurrency, 1, 100_000, true);
  const lanes = new Map<string, Array<() => unknown>>(); // present = a task of the key runs or is ready; value = its followers
  const ready: Array<() => unknown> = [];
  const idleWaiters: Array<() => void> = [];
  let active = 0;
  let size = 0;

  function run<T>(key: string | undefined, task: () => Promise<T>): Promise<T> {
    size++;
    return new Promise<T>((resolve, reject) => {
      const start = async (): Promise<void> => {
        active++;
        try {
          resolve(await task());
        } catch (error) {
          reject(error);
        }
        finished(key); // before anyone who waits for the task goes on, so that they find the slot free
      };
      const lane = key === undefined ? undefined : lanes.get(key);
      if (lane) return void lane.push(start);
      if (key !== undefined) lanes.set(key, []);
      enqueue(start);
    });
  }

  function enqueue(start: () => unknown): void {
    if (active < concurrency) start();
    else ready.push(start);
  }

  function finished(key: string | undefined): void {
    active--;
    size--;
    if (key !== undefined) {
      const next = lanes.get(key)?.shift();
      if (next) ready.push(next);
      else lanes.delete(key);
    }
    while (active < concurrency && ready.length > 0) ready.shift()!();
    if (size === 0) { for (const wake of idleWaiters.splice(0)) wake(); }
  }

  return {
    run,
    get active() {
      return active;
    },
    get size() {
      return size;
    },
    idle: () => size === 0 ? Promise.resolve() : new Promise((resolve) => idleWaiters.push(resolve)),
  };
}
