/**
 * What can be asked about sagas and done with them.
 *
 * @module
 */
import type { SagaFilter, SagaHistoryEntry, SagaInstance } from "../ports/saga_store.ts";

/** An instance as operators see it. */
export interface SagaView extends Omit<SagaInstance, "history" | "fingerprint"> {
  /** Whether it is past its deadline. */
  readonly stuck: boolean;
  /** All tries and all that operators did, oldest first. */
  readonly timeline: readonly SagaTry[];
}

/** One line of a timeline. */
export interface SagaTry extends SagaHistoryEntry {
  /** Absent while it runs, or where a crash ended it. */
  readonly durationMs?: number;
}

/** Sagas and process managers of an application's store, also those of other processes. */
export interface Sagas {
  /** @throws `NOT_FOUND` */
  get(id: string): Promise<SagaView>;
  /** In order of id; up to 100 unless `limit` says otherwise. `stuck`: only those past their deadline. */
  list(filter?: Partial<SagaFilter> & { readonly stuck?: boolean }): Promise<readonly SagaView[]>;
  /** Resolves when an instance has ended: at once where this process drives it, else within `pollMs` (250). @throws `NOT_FOUND`, `ABORTED` */
  settled(
    id: string,
    options?: { readonly signal?: AbortSignal; readonly pollMs?: number },
  ): Promise<SagaView>;
  /**
   * Tries again at once, with a fresh budget: the step that waits for its next try, or the undos that failed. As the
   * three below it waits up to 10 seconds for the step under way.
   *
   * @throws `NOT_FOUND`, `REFUSED` if there is nothing to retry, `DEADLINE_EXCEEDED`.
   */
  retry(id: string): Promise<SagaView>;
  /** Goes on without a step (by default the one at which the saga is), which is never undone. @throws as `retry` */
  skip(id: string, step?: string): Promise<SagaView>;
  /** Declares it completed, whatever was done. @throws as `retry` */
  forceComplete(id: string, reason?: string): Promise<SagaView>;
  /** Turns it to compensating. @throws as `retry`; `REFUSED` past the pivot */
  cancel(id: string, reason?: string): Promise<SagaView>;
}
