/**
 * Runs a conformance suite in virtual time: all its tests at once, in a few moments, however long they wait.
 *
 * @module
 */
import { toError } from "../../src/core/errors.ts";
import { type TestRunner, type VirtualClock, virtualClock } from "../../src/testing/mod.ts";

/** What became of one test. */
export interface Outcome {
  readonly name: string;
  readonly skip?: string;
  readonly error?: Error;
}

/** Runs the tests that `suite` registers. A test that does not end within ten virtual minutes fails. */
export async function runInVirtualTime(
  suite: (setting: { test: TestRunner; clock: VirtualClock }) => Promise<void>,
): Promise<readonly Outcome[]> {
  const clock = virtualClock();
  const tests: Array<Outcome & { run: () => Promise<void> }> = [];
  await suite({
    clock,
    test: (name, { skip }, run) => tests.push(skip === undefined ? { name, run } : { name, skip, run }),
  });
  const outcomes = new Map<string, Outcome>();
  const finishing = tests.map(async ({ name, skip, run }) => {
    try {
      if (skip === undefined) await run();
      outcomes.set(name, skip === undefined ? { name } : { name, skip });
    } catch (error) {
      outcomes.set(name, { name, error: toError(error) });
    }
  });
  while (outcomes.size < tests.length && clock.monotonic() < 600_000) await clock.advance(clock.nextMs ?? 1);
  if (outcomes.size === tests.length) await Promise.all(finishing);
  return tests.map(({ name }) => outcomes.get(name) ?? { name, error: new Error("it does not end") });
}

/** The names of those that failed. */
export function failed(outcomes: readonly Outcome[]): readonly string[] {
  return outcomes.filter(({ error }) => error).map(({ name }) => name);
}
