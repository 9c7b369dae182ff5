/**
 * Waiting for what another process does, without guessing how long it takes.
 *
 * @module
 */

/** Options of {@linkcode eventually}. */
export interface WaitOptions {
  /** When to give up, in milliseconds. @default 30_000 */
  readonly withinMs?: number;
  /** Pause between two looks, in milliseconds. @default 20 */
  readonly everyMs?: number;
}

/**
 * Calls `look` until it neither throws nor returns `false`, and resolves to what it returned. At the deadline it
 * rejects with what `look` threw last, or says that it stayed `false`. A `look` that hangs counts as well.
 */
export async function eventually<T>(
  look: () => T | Promise<T>,
  { withinMs = 30_000, everyMs = 20 }: WaitOptions = {},
): Promise<Exclude<T, false>> {
  const deadline = performance.now() + withinMs;
  let last: unknown = new Error("it was false all the time");
  do {
    try {
      const value = await within(Math.max(1, deadline - performance.now()), look());
      if (value !== false) return value as Exclude<T, false>;
    } catch (error) {
      last = error;
    }
    await pause(everyMs);
  } while (performance.now() < deadline);
  const reason = last instanceof Error ? last.message : String(last);
  throw new Error(`Not so within ${withinMs} ms: ${reason}`, { cause: last });
}

/** Settles as `work` does, or rejects after `ms` milliseconds. */
export function within<T>(ms: number, work: T | Promise<T>, what = "no answer"): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(
      () => reject(new Error(`${what} after ${Math.round(ms)} ms`)),
      ms,
    );
    Promise.resolve(work).then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Resolves after `ms` milliseconds. Only for giving another process the processor; never for hoping it is done. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
