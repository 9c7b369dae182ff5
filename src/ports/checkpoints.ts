/**
 * The checkpoint port: how far a reader of the whole store has come.
 *
 * @module
 */

/** Positions by reader. */
export interface Checkpoints {
  /** How far it has come; 0 at first. */
  load(name: string): Promise<bigint>;

  /**
   * Moves it from `from` to `to`. Call it in the transaction of the effects. On a projection's run the caller has
   * called {@linkcode Leases.assert} before, in the same transaction.
   *
   * @throws `LEASE_LOST` if it does not stand at `from`: another worker moved it.
   */
  advance(name: string, from: bigint, to: bigint): Promise<void>;

  /** Forgets it: it stands at 0 again. */
  remove(name: string): Promise<void>;
}
