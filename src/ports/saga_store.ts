/**
 * The saga port: instances of sagas and process managers, saved after each step, and found again by any worker after a
 * crash. What many instances of one process want at the same time goes in one call, and each gets its own answer.
 *
 * @module
 */

/**
 * Where an instance stands. `waiting`: for an event, a timer or a child. `needs_migration`: no process that looked at it
 * has its definition; it is looked at again now and then. `completed`, `compensated` and `compensation_failed` are
 * final; the last one waits for an operator.
 */
export type SagaStatus =
  | "running"
  | "waiting"
  | "compensating"
  | "completed"
  | "compensated"
  | "compensation_failed"
  | "needs_migration";

/** What happened with one step. */
export interface SagaStepRecord {
  readonly name: string;
  /**
   * `started` is saved before the step runs: after a crash its outcome is in doubt. `retrying`: it failed and is tried
   * again at `dueAt`. `waiting`: for an event, a timer or a child. `skipped`: an operator said so; it is never undone.
   */
  readonly status:
    | "started"
    | "retrying"
    | "waiting"
    | "done"
    | "skipped"
    | "undoing"
    | "undone"
    | "undo_failed";
  /** Tries so far of what is being done now: of `run`, or of `undo` once it is undoing. */
  readonly attempt: number;
  readonly error?: string;
  /** When the last try began, or the waiting. */
  readonly startedAt: number;
  readonly endedAt?: number;
  /** When there is something to do about this step. */
  readonly dueAt?: number;
}

/** A try of a step that its record no longer shows, or what an operator did. */
export interface SagaHistoryEntry {
  /** Absent where an operator acted on the whole instance. */
  readonly step?: string;
  readonly action: "run" | "verify" | "undo" | "retry" | "skip" | "force-complete" | "cancel";
  readonly attempt: number;
  readonly startedAt: number;
  /** Absent where a crash or a shutdown ended it: its outcome is in doubt. */
  readonly endedAt?: number;
  readonly error?: string;
}

/** One run of a saga. */
export interface SagaInstance {
  readonly id: string;
  readonly saga: string;
  /** Version of the definition it was started with, which it keeps. */
  readonly version: number;
  readonly status: SagaStatus;
  /** JSON. */
  readonly data: unknown;
  /** In the order they were started. */
  readonly steps: readonly SagaStepRecord[];
  /** Earlier tries, oldest first; a bounded number. */
  readonly history?: readonly SagaHistoryEntry[];
  /** Why it is compensating. */
  readonly error?: string;
  /** With `needs_migration`: the status it goes on with, and what is missing. */
  readonly parked?: { readonly status: SagaStatus; readonly reason: string };
  readonly correlationId: string;
  /** Tells the data it was started with from other data. */
  readonly fingerprint?: string;
  /** The instance that waits for this one, and its step. */
  readonly parent?: { readonly id: string; readonly step: string };
  /** When there is something to do next, in milliseconds since 1970. Ignored once final. */
  readonly dueAt: number;
  /** When it counts as stuck. */
  readonly deadlineAt?: number;
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

/** Who wants to hold an instance, and for how long. */
export interface SagaHolder {
  readonly owner: string;
  readonly leaseMs: number;
}

/** Progress to save. */
export interface SagaSave {
  readonly claimed: ClaimedSaga;
  readonly instance: SagaInstance;
  /** Ends the claim, so that any worker may go on when it is due. */
  readonly release: boolean;
  /** With `release`: if more signals than this have come, it is due at once. */
  readonly seen?: number;
}

/** The signals of an instance. */
export interface SagaSignals {
  /** How many there are, for {@linkcode SagaSave.seen}. */
  readonly seen: number;
  /** Text by name. */
  readonly byName: ReadonlyMap<string, string>;
}

/** Which instances. */
export interface SagaFilter {
  readonly saga?: string;
  readonly status?: SagaStatus;
  /** Only those started before, in milliseconds since 1970. */
  readonly startedBefore?: number;
  /** Only unfinished ones whose deadline lies before, in milliseconds since 1970. */
  readonly overdueAt?: number;
  readonly limit: number;
  /** Only ids after this one. */
  readonly after?: string;
}

/** Instances of sagas. */
export interface SagaStore {
  /**
   * Saves new instances, claimed at once for `holder` (epoch 1) if there is one. False where the id exists, also
   * earlier in the same call: nothing is saved for it.
   */
  create(instances: readonly SagaInstance[], holder?: SagaHolder): Promise<readonly boolean[]>;

  /** The instance, or `undefined`. */
  load(id: string): Promise<SagaInstance | undefined>;

  /** Takes up to `limit` unfinished instances of these sagas that are due and that nobody holds. */
  claim(
    sagas: readonly string[],
    owner: string,
    leaseMs: number,
    limit: number,
  ): Promise<readonly ClaimedSaga[]>;

  /** Takes one instance, due or not, also a final one. `undefined` if there is none or somebody holds it. */
  take(id: string, owner: string, leaseMs: number): Promise<ClaimedSaga | undefined>;

  /** More time for claimed instances, each at most once in a call. False where the claim was lost. */
  renew(claims: readonly ClaimedSaga[], leaseMs: number): Promise<readonly boolean[]>;

  /**
   * Saves progress, of each instance by itself: false where the claim was lost, with nothing saved for it. No
   * instance may occur twice in a call.
   */
  save(saves: readonly SagaSave[]): Promise<readonly boolean[]>;

  /**
   * Leaves a text for an instance under a name, and makes the instance due. It may come before the instance is created.
   * A second one of the same name changes nothing.
   */
  signal(id: string, name: string, text: string): Promise<void>;

  /** What was left for an instance. */
  signals(id: string): Promise<SagaSignals>;

  /** Instances in order of id. */
  list(filter: SagaFilter): Promise<readonly SagaInstance[]>;
}

const FINAL: readonly string[] = ["completed", "compensated", "compensation_failed"] satisfies SagaStatus[];

/** Whether nothing is done any more unless an operator says so. */
export function isFinal(status: SagaStatus): boolean {
  return FINAL.includes(status);
}
