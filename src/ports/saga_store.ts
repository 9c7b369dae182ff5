/**
 * The saga port: instances of sagas, saved after each step, and found again by any worker after a crash.
 *
 * @module
 */

/** Where an instance stands. The last three are final; `compensation_failed` waits for an operator. */
export type SagaStatus = "running" | "compensating" | "completed" | "compensated" | "compensation_failed";

/** What happened with one step. */
export interface SagaStepRecord {
  readonly name: string;
  /** `started` is saved before the step runs: after a crash its outcome is in doubt. */
  readonly status: "started" | "done" | "undoing" | "undone" | "undo_failed";
  /** Tries so far of what is being done now: of `run`, or of `undo` once it is undoing. */
  readonly attempt: number;
  readonly error?: string;
  readonly startedAt: number;
  readonly endedAt?: number;
}

/** One run of a saga. */
export interface SagaInstance {
  readonly id: string;
  readonly saga: string;
  readonly status: SagaStatus;
  /** JSON. */
  readonly data: unknown;
  /** In the order they were started. */
  readonly steps: readonly SagaStepRecord[];
  readonly error?: string;
  readonly correlationId: string;
  /** When there is something to do next, in milliseconds since 1970. Ignored once final. */
  readonly dueAt: number;
  readonly startedAt: number;
  readonly updatedAt: number;
}

/** An instance that this worker may drive until its lease ends. */
export interface ClaimedSaga {
  readonly instance: SagaInstance;
  readonly owner: string;
  /** The fencing token: grows with each claim. */
  readonly epoch: number;
}

/** Which instances. */
export interface SagaFilter {
  readonly saga?: string;
  readonly status?: SagaStatus;
  readonly limit: number;
  /** Only ids after this one. */
  readonly after?: string;
}

/** Instances of sagas. */
export interface SagaStore {
  /** Saves a new instance. False, and nothing saved, if the id exists. */
  create(instance: SagaInstance): Promise<boolean>;

  /** The instance, or `undefined`. */
  load(id: string): Promise<SagaInstance | undefined>;

  /** Takes up to `limit` unfinished instances of these sagas that are due and that nobody holds. */
  claim(
    sagas: readonly string[],
    owner: string,
    leaseMs: number,
    limit: number,
  ): Promise<readonly ClaimedSaga[]>;

  /** More time for a claimed instance. False if the claim was lost. */
  renew(claimed: ClaimedSaga, leaseMs: number): Promise<boolean>;

  /**
   * Saves progress. `release` ends the claim, so that any worker may go on when it is due.
   *
   * @throws `LEASE_LOST` if the claim was lost; nothing saved.
   */
  save(claimed: ClaimedSaga, instance: SagaInstance, release: boolean): Promise<void>;

  /** Instances in order of id. */
  list(filter: SagaFilter): Promise<readonly SagaInstance[]>;
}
