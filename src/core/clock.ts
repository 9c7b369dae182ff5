/**
 * Time as an argument. Nothing in the library reads the time or sets a timer except through a {@linkcode Clock},
 * so that tests and simulations can own both.
 *
 * @module
 */
import { MillstreamError } from "./errors.ts";

/** Extended by the options of everything that waits. */
export interface Abortable {
  /** Stops the work. What was not finished rejects with `ABORTED`. */
  readonly signal?: AbortSignal;
}

/** The source of time. */
export interface Clock {
  /** Wall clock in milliseconds since 1970. May jump; use it for timestamps only. */
  now(): number;
  /** Monotonic milliseconds from an arbitrary start. Use it for durations. */
  monotonic(): number;
  /** Calls `callback` once after `ms` milliseconds, unless the returned function is called before. */
  after(ms: number, callback: () => void): () => void;
}

/** The runtime's own clock. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(ms, callback) {
    // setTimeout fires at once above 2^31-1 ms.
    const timer = setTimeout(callback, Math.min(ms, 2_147_483_647));
    return () => clearTimeout(timer);
  },
};

/** Resolves after `ms` milliseconds, or rejects with `ABORTED` as soon as `signal` aborts. */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(aborted(signal));
    const cancel = clock.after(ms, () => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    });
    function onAbort(): void {
      cancel();
      reject(aborted(signal));
    }
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/**
 * Gives up waiting for `work` after `ms` milliseconds with the error that `late` returns. The work itself is not
 * stopped: its outcome is unknown, which is what `late` should say.
 */
export function withDeadline<T>(clock: Clock, ms: number, work: Promise<T>, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const cancel = clock.after(ms, () => reject(late()));
    work.then(resolve, reject).finally(cancel);
  });
}

/**
 * Settles as `work` does, but no later than the abort, then with the signal's reason. Work that ignores its signal is
 * left behind; whatever it does then must be fenced.
 */
export function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
    if (signal.aborted) onAbort();
  });
}

/** As {@linkcode untilAborted}, with `ABORTED` instead of the signal's reason; without a signal just `work`. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return untilAborted(work, signal).catch((failure) => {
    throw signal.aborted && failure === signal.reason ? aborted(signal) : failure;
  });
}

/** The error for work that a signal stopped. */
export function aborted(signal?: AbortSignal): MillstreamError {
  return new MillstreamError("ABORTED", "Stopped by the caller's signal", { cause: signal?.reason });
}
