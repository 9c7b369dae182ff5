/**
 * The lease port: who may do a thing that only one worker may do. A lease is a name, an owner and an epoch that grows
 * with each owner; writes carry the epoch, so that a worker that was paused past its lease is refused (Kleppmann,
 * "How to do distributed locking", 2016: fencing tokens).
 *
 * @module
 */

/** Proof of ownership, as of some moment. */
export interface Lease {
  readonly name: string;
  readonly owner: string;
  /** Grows by one each time the owner changes. The fencing token. */
  readonly epoch: number;
}

/** Leases, timed by the store's clock. */
export interface Leases {
  /**
   * Takes the lease if nobody holds it or the holder's time is up; the same owner just gets more time and keeps the
   * epoch. `undefined` if somebody else holds it.
   */
  acquire(name: string, owner: string, ttlMs: number): Promise<Lease | undefined>;

  /** More time from now. False if it was lost. */
  renew(lease: Lease, ttlMs: number): Promise<boolean>;

  /** Gives it up, if it is still held. */
  release(lease: Lease): Promise<void>;

  /**
   * Takes it from whoever holds it, whose writes under it are refused from now on, and gives it to nobody. Waits for
   * transactions that have asserted it.
   */
  revoke(name: string): Promise<void>;

  /**
   * Holds the lease in place until the surrounding transaction ends. The fence: call it in every transaction whose
   * writes are only allowed to the holder.
   *
   * @throws `LEASE_LOST`
   */
  assert(lease: Lease): Promise<void>;
}
