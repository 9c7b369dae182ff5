/**
 * Many calls, few statements: what is asked for in the same tick, or while a statement is under way, shares one.
 *
 * @module
 */

/**
 * Calls `run` with the items of all calls that came since the last time; its results are in the order of the items.
 * One run is under way at a time. What it rejects with, all of its callers get.
 */
export function gather<Item, Result>(
  run: (items: readonly Item[]) => Promise<readonly Result[]>,
): (item: Item) => Promise<Result> {
  interface Call {
    readonly item: Item;
    readonly resolve: (result: Result) => void;
    readonly reject: (error: unknown) => void;
  }
  let waiting: Call[] = [];
  let running = false;

  async function runAll(): Promise<void> {
    while (waiting.length > 0) {
      const calls = waiting;
      waiting = [];
      try {
        const results = await run(calls.map(({ item }) => item));
        calls.forEach(({ resolve }, index) => resolve(results[index] as Result));
      } catch (error) {
        for (const { reject } of calls) reject(error);
      }
    }
    running = false; // in the same job as the last look: what comes later begins anew
  }

  return (item) =>
    new Promise((resolve, reject) => {
      waiting.push({ item, resolve, reject });
      if (running) return;
      running = true;
      queueMicrotask(() => void runAll());
    });
}
