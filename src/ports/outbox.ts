/**
 * The outbox port: messages that commit with a transaction and are sent by the relay after it.
 *
 * @module
 */
import type { EncodedMessage } from "../core/message.ts";
import type { Lease } from "./leases.ts";

/** A message for a topic. */
export interface OutboxMessage extends EncodedMessage {
  readonly topic: string;
}

/** A message that waits to be sent. */
export interface OutboxEntry extends OutboxMessage {
  /** Opaque; names the entry for {@linkcode Outbox.markSent}. */
  readonly position: bigint;
}

/** Messages between the transaction that decided to send them and the broker. */
export interface Outbox {
  /** Adds messages; with the transaction they are sent, without it never. */
  add(messages: readonly OutboxMessage[]): Promise<void>;

  /** The oldest unsent messages, in an order that keeps each stream's and each transaction's own order. */
  pending(limit: number): Promise<readonly OutboxEntry[]>;

  /**
   * Notes that the broker has confirmed these. Fenced: with a lost lease nothing is marked.
   *
   * @throws `LEASE_LOST`
   */
  markSent(positions: readonly bigint[], lease: Lease): Promise<void>;

  /** How long the oldest unsent message has been waiting, in milliseconds by the store's clock; 0 if none is. */
  oldestAgeMs(): Promise<number>;
}
