/**
 * The dead-letter port: messages a group gave up, with everything needed to understand them and to try again.
 *
 * @module
 */
import type { EncodedMessage } from "../core/message.ts";

/** Why an attempt failed. */
export interface Failure {
  /** The error's `name`, or its `code` where it has one: `VALIDATION_FAILED`, `TypeError`. */
  readonly error: string;
  readonly message: string;
  /** Shortened. */
  readonly stack?: string;
  /** Wall clock in milliseconds. */
  readonly at: number;
}

/** A message that was given up. `body` has the original bytes. */
export interface DeadLetter extends EncodedMessage {
  /** Identifies it among the dead letters. Opaque. */
  readonly deadLetterId: string;
  readonly topic: string;
  /** The group that gave it up; redrive goes back to this group only. */
  readonly group: string;
  /** Tries that ended in failure. */
  readonly attempts: number;
  /** How often it was redriven before. */
  readonly redrives: number;
  readonly firstFailedAt: number;
  readonly failure: Failure;
}

/** Which dead letters. All given fields must match. */
export interface DeadLetterFilter {
  readonly topic?: string;
  readonly group?: string;
  readonly type?: string;
  /** Matches {@linkcode Failure.error}. */
  readonly error?: string;
  /** Failed before this time, in milliseconds since 1970. */
  readonly before?: number;
}

/** Looks at, sends back and removes dead letters. */
export interface DeadLetters {
  /** Oldest first, to the millisecond, at most `limit` after the dead letter with id `after`. */
  list(
    filter: DeadLetterFilter,
    page: { readonly limit: number; readonly after?: string },
  ): Promise<readonly DeadLetter[]>;

  /** How many match. */
  count(filter: DeadLetterFilter): Promise<number>;

  /** One of them, or `undefined`. */
  get(deadLetterId: string): Promise<DeadLetter | undefined>;

  /**
   * Gives it back to the group that gave it up, and to no other, with a fresh budget of attempts. Atomic: it is either
   * dead or redriven. False if it is not there (any more).
   */
  redrive(deadLetterId: string): Promise<boolean>;

  /** Forgets it. False if it is not there. */
  remove(deadLetterId: string): Promise<boolean>;
}
