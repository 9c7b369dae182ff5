/**
 * Waiting for something to happen under a name.
 *
 * @module
 */
import { aborted, type Clock } from "../core/clock.ts";

/** Wakes those who wait. */
export interface Bell {
  /** Resolves when the name is rung or `ms` have passed; rejects with `ABORTED` when the signal aborts. */
  wait(name: string, ms: number, signal?: AbortSignal): Promise<void>;
  /** Wakes all who wait for this name. */
  ring(name: string): void;
  /** Wakes all. */
  ringAll(): void;
}

/** A {@linkcode Bell} that nobody waits for yet. */
export function bell(clock: Clock): Bell {
  const waiting = new Map<string, Set<() => void>>();

  function ring(name: string): void {
    const waiters = waiting.get(name);
    waiting.delete(name);
    for (const wake of waiters ?? []) wake();
  }

  return {
    wait(name, ms, signal) {
      return new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(aborted(signal));
        const waiters = waiting.get(name) ?? new Set();
        waiting.set(name, waiters.add(wake));
        const cancel = clock.after(ms, wake);
        signal?.addEventListener("abort", onAbort, { once: true });
        function wake(): void {
          leave();
          resolve();
        }
        function onAbort(): void {
          leave();
          reject(aborted(signal));
        }
        function leave(): void {
          cancel();
          signal?.removeEventListener("abort", onAbort);
          waiters.delete(wake);
          if (waiters.size === 0 && waiting.get(name) === waiters) waiting.delete(name);
        }
      });
    },
    ring,
    ringAll() {
      for (const name of [...waiting.keys()]) ring(name);
    },
  };
}
