/**
 * What the conformance suites need from a test runner.
 *
 * @module
 */

/**
 * Registers one test. `test` of `node:test` fits as it is (on Node, Bun and Deno); others take one line:
 *
 * ```ts
 * const runner: TestRunner = (name, { skip, timeout }, run) => vitest.test.skipIf(skip)(name, run, timeout);
 * const runner: TestRunner = (name, { skip }, run) => void Deno.test({ name, fn: run, ignore: skip !== undefined });
 * ```
 */
export type TestRunner = (name: string, options: TestRunnerOptions, run: () => Promise<void>) => unknown;

/** How a test is to be registered. */
export interface TestRunnerOptions {
  /** Why the test must not run. Absent if it must. */
  readonly skip?: string;
  /** After how many milliseconds the runner should give the test up. */
  readonly timeout: number;
}

/** Registers a test, or one that is skipped: then its name carries the reason, which some runners do not show. */
export function register(
  test: TestRunner,
  name: string,
  { skip, timeout }: { readonly skip: string | undefined; readonly timeout: number },
  run: () => Promise<void>,
): void {
  if (skip === undefined) test(name, { timeout }, run);
  else test(`${name} (skipped: ${skip})`, { skip, timeout }, run);
}
