/**
 * Holds drivers to their deadlines.
 *
 * @module
 */
import assert from "node:assert/strict";
import { isMillstreamError } from "../../../src/core/errors.ts";
import type { SqlDriver } from "../../../src/ports/sql.ts";
import { eventually } from "../../support/wait.ts";

/** Deadline of the drivers under test: also on a busy machine, a server that is well connects and answers within it. */
export const TIMEOUT_MS = 1_000;
/** On top of a deadline, for a machine that is busy beyond that. What hangs does so for ever, or for minutes. */
const SLACK_MS = 10_000;

/** Settles as `work` does, and fails if that took longer than deadlines allow. */
export async function timely<T>(work: Promise<T>, deadlines = 1): Promise<T> {
  const started = performance.now();
  try {
    return await work;
  } finally {
    const took = performance.now() - started;
    assert.ok(
      took < deadlines * TIMEOUT_MS + SLACK_MS,
      `settled after ${Math.round(took)} ms`,
    );
  }
}

/** Whatever is said about it, it must be said in time, and say that a retry may help. */
export async function failsInTime(work: Promise<unknown>): Promise<void> {
  const retryable = (error: unknown): boolean => isMillstreamError(error) && error.retryable;
  await assert.rejects(timely(work), retryable);
}

/** Waits until both pools work again, all of their connections. */
export async function recovers(driver: SqlDriver): Promise<void> {
  await eventually(async () => {
    // More often than there are connections: none may be left behind that does not answer.
    for (let call = 0; call < 8; call++) {
      await timely(driver.query("select 1"));
      await timely(
        driver.transaction((session) => session.query("select 1")),
        2,
      );
    }
  }, { withinMs: 60_000 });
}
