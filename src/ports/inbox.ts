/**
 * The inbox port: which messages a group has handled, so that a repeated delivery has no second effect.
 *
 * @module
 */

/** Ids already handled, by consumer group. */
export interface Inbox {
  /**
   * Notes that the group handled this message. Call it in the transaction of the effects: of two that run at the same
   * time, the second waits for the first and is then told `false`.
   *
   * @returns false if it was handled before: roll back or write nothing.
   */
  record(group: string, messageId: string): Promise<boolean>;

  /** Which of these the group has handled. A hint that saves work; only {@linkcode Inbox.record} decides. */
  seen(group: string, messageIds: readonly string[]): Promise<ReadonlySet<string>>;

  /** Forgets what was handled longer than `ageMs` ago. Must exceed the longest time a message can come again. */
  forget(ageMs: number): Promise<number>;
}
