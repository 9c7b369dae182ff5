/**
 * The outbox port: messages that commit with a transaction and are sent by the relay after it.
 *
 * A lane is a topic's messages of one key, or those without a key. Messages of a lane are sent one after another, in
 * order; lanes do not wait for each other.
 *
 * @module
 */
import type { EncodedMessage } from "../core/message.ts";
import type { Failure } from "./dead_letters.ts";
import type { Lease } from "./leases.ts";

/** A message for a topic. */
export interface OutboxMessage extends EncodedMessage {
  readonly topic: string;
}

/** A message that waits to be sent. */
export interface OutboxEntry extends OutboxMessage {
  /** Opaque; names the entry for {@linkcode Outbox.markSent}. */
  readonly position: bigint;
  /** How often the broker has refused it. */
  readonly attempts: number;
}

/** Messages between the transaction that decided to send them and the broker. */
export interface Outbox {
  /** Adds messages; with the transaction they are sent, without it never. */
  add(messages: readonly OutboxMessage[]): Promise<void>;

  /**
   * The oldest unsent messages, in an order that keeps each stream's and each transaction's own order. Without dead
   * letters, and without the lanes of messages that wait for their next try.
   */
  pending(limit: number): Promise<readonly OutboxEntry[]>;

  /**
   * Notes that the broker has confirmed these. Fenced: with a lost lease nothing is marked.
   *
   * @throws `LEASE_LOST`
   */
  markSent(positions: readonly bigint[], lease: Lease): Promise<void>;

  /**
   * Notes that the broker refused a message. Its lane waits for `delayMs` until the next try; with `undefined` the
   * message becomes a dead letter (see `StorePorts.outboxDeadLetters`) and its lane goes on without it. A message that
   * was sent or given up meanwhile stays as it is.
   *
   * @throws `LEASE_LOST`
   */
  markRefused(
    position: bigint,
    failure: Failure,
    delayMs: number | undefined,
    lease: Lease,
  ): Promise<void>;

  /** How long the oldest unsent message has been waiting, in milliseconds by the store's clock; 0 if none is. */
  oldestAgeMs(): Promise<number>;

  /**
   * Makes unsent again what was sent at or after a moment, in milliseconds since 1970 by the store's clock, as far as
   * it is still kept. Returns how many. For a broker that lost what it had confirmed: all go out again in their order,
   * under their ids.
   */
  unsend(since: number): Promise<number>;
}
