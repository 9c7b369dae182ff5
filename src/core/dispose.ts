/**
 * Closing things in the right order. (`AsyncDisposableStack` is missing on Node 20 to 22.)
 *
 * @module
 */

/** Collects what must be closed, and closes it in reverse order, once. */
export interface Disposer extends AsyncDisposable {
  /** Adds something to close. Closed last-in, first-out. */
  defer(close: () => void | Promise<void>): void;
  /** Closes everything; later calls wait for the same closing. All closers run; failures are thrown together. */
  dispose(): Promise<void>;
}

/** An empty {@linkcode Disposer}. */
export function disposer(): Disposer {
  const closers: Array<() => void | Promise<void>> = [];
  let closing: Promise<void> | undefined;
  const dispose = (): Promise<void> => closing ??= closeAll(closers);
  return { defer: (close) => void closers.push(close), dispose, [Symbol.asyncDispose]: dispose };
}

async function closeAll(closers: Array<() => void | Promise<void>>): Promise<void> {
  const failures: unknown[] = [];
  for (let close = closers.pop(); close; close = closers.pop()) {
    try {
      await close();
    } catch (failure) {
      failures.push(failure);
    }
  }
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) {
    throw new AggregateError(failures, `Cannot close cleanly: ${failures.length} parts failed`);
  }
}
