/**
 * When dead letters are worth a word.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";

/** When to say something about a group's dead letters. */
export interface DeadLetterAlertOptions {
  /** There are so many, or more. @default 1 */
  readonly depth?: number;
  /** The oldest has failed so long ago, in milliseconds. @default never */
  readonly ageMs?: number;
  /** How often to look, in milliseconds. @default 60_000 */
  readonly everyMs?: number;
  /** Told beside the observer: calls a webhook, a pager. When it rejects it is told again at the next look. */
  readonly notify?: (alert: DeadLetterAlert) => void | Promise<void>;
}

/** A group has dead letters that somebody should look at. */
export interface DeadLetterAlert {
  readonly topic: string;
  readonly group: string;
  readonly depth: number;
  /** Since when the oldest has been there, in milliseconds. */
  readonly oldestMs: number;
}

/** Refuses values out of range with `INVALID_ARGUMENT`. */
export function checkAlerts({ depth = 1, ageMs = 1, everyMs = 60_000 }: DeadLetterAlertOptions): void {
  checkRange("deadLetterAlerts.depth", depth, 1, Number.MAX_SAFE_INTEGER, true);
  checkRange("deadLetterAlerts.ageMs", ageMs, 1, Number.MAX_SAFE_INTEGER);
  checkRange("deadLetterAlerts.everyMs", everyMs, 100, 86_400_000);
}
