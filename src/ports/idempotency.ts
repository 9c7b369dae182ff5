/**
 * The idempotency port: operations that run once per key, however often and from wherever they are called.
 *
 * @module
 */

import type { Abortable } from "../core/clock.ts";

/** What {@linkcode IdempotencyKeys.begin} found. */
export type IdempotencyState =
  /** This caller runs the operation, with this fencing token. */
  | { readonly state: "started"; readonly epoch: number }
  /** It ran before; this is what it returned. JSON text. */
  | { readonly state: "done"; readonly result: string }
  /** Another caller is running it. */
  | { readonly state: "running" }
  /** The key belongs to another request. */
  | { readonly state: "mismatch" };

/** Results by key. A running operation holds a lease; who takes over a dead one gets a higher epoch. */
export interface IdempotencyKeys {
  /**
   * Claims the key, or says what became of it.
   *
   * @param fingerprint What the request was: a hash of its payload.
   * @param leaseMs How long the claim holds without renewal, by the store's clock.
   */
  begin(key: string, fingerprint: string, leaseMs: number): Promise<IdempotencyState>;

  /**
   * Resolves when a key that was running may have changed, at the latest after `waitMs`: to look again then. Absent
   * where nothing tells; who waits looks again by itself.
   */
  changed?(key: string, options: Abortable & { readonly waitMs: number }): Promise<void>;

  /** More time for a running operation. False if the claim was lost. */
  renew(key: string, epoch: number, leaseMs: number): Promise<boolean>;

  /**
   * Keeps the result for `ttlMs`.
   *
   * @throws `LEASE_LOST` if another caller took over: in a transaction, roll back.
   */
  complete(key: string, epoch: number, result: string, ttlMs: number): Promise<void>;

  /** The operation failed without effect: the next caller may run it. */
  abandon(key: string, epoch: number): Promise<void>;
}
