/**
 * The few assertions that the conformance suites need, so that they run under any test runner on any runtime.
 *
 * @module
 */
import { type Clock, sleep } from "../core/clock.ts";
import {
  describe,
  type ErrorCode,
  isMillstreamError,
  type MillstreamError,
  toError,
} from "../core/errors.ts";

/** Fails unless `condition` holds. */
export function ok(condition: unknown, message: string): asserts condition {
  if (!condition) fail(message);
}

/** Fails unless both are the same value (`Object.is`). */
export function equal<T>(actual: T, expected: T, what: string): void {
  if (!Object.is(actual, expected)) fail(`${what}: expected ${describe(expected)}, got ${describe(actual)}`);
}

/** Fails unless both have the same shape and values. A property that is `undefined` counts as absent. */
export function deepEqual<T>(actual: T, expected: T, what: string): void {
  const path = difference(actual, expected, "");
  if (path === undefined) return;
  fail(`${what}: expected ${render(expected)}, got ${render(actual)}${path ? ` (differs at ${path})` : ""}`);
}

/** Waits for `work` to reject with one of `codes` and returns the error. */
export async function rejects(
  work: Promise<unknown>,
  codes: ErrorCode | readonly ErrorCode[],
  what: string,
): Promise<MillstreamError> {
  const expected = typeof codes === "string" ? [codes] : codes;
  let outcome: string;
  try {
    outcome = `resolved with ${describe(await work)}`;
  } catch (error) {
    if (isMillstreamError(error, ...expected)) return error;
    outcome = `rejected with ${isMillstreamError(error) ? `${error.code}: ` : ""}${toError(error).message}`;
  }
  fail(`${what}: expected rejection with ${expected.join(" or ")}, but it ${outcome}`);
}

/** Repeats `probe` until it returns something other than `undefined` or `false`, for at most `ms` milliseconds. */
export async function eventually<T>(
  clock: Clock,
  ms: number,
  what: string,
  probe: () => Promise<T | undefined | false>,
): Promise<T> {
  const end = clock.monotonic() + ms;
  for (;;) {
    const result = await probe();
    if (result !== undefined && result !== false) return result;
    if (clock.monotonic() >= end) fail(`${what}: not within ${ms} ms`);
    await sleep(clock, 20);
  }
}

/** Work that goes on beside the test: if it fails, that counts where it is awaited, and not before. */
export function beside<T>(work: Promise<T>): Promise<T> {
  work.catch(() => {});
  return work;
}

/** Fails the test. */
export function fail(message: string): never {
  throw new Error(message);
}

/** Where two values differ, or `undefined` if they do not. */
function difference(actual: unknown, expected: unknown, path: string): string | undefined {
  if (Object.is(actual, expected)) return undefined;
  if (typeof actual !== "object" || typeof expected !== "object" || actual === null || expected === null) {
    return path;
  }
  if (Array.isArray(actual) !== Array.isArray(expected)) return path;
  const left = actual as Record<string, unknown>;
  const right = expected as Record<string, unknown>;
  for (const key of new Set([...Object.keys(left), ...Object.keys(right)])) {
    const found = difference(left[key], right[key], `${path}.${key}`);
    if (found !== undefined) return found;
  }
  return undefined;
}

function render(value: unknown): string {
  const text = JSON.stringify(value, (_, part) => typeof part === "bigint" ? `${part}n` : part) ??
    String(value);
  return text.length > 400 ? `${text.slice(0, 400)}…` : text;
}
