/**
 * The projection port: what all processes must agree on about a projection, and the events it has put aside.
 *
 * @module
 */

/** One filling of a read model, from the first event on. */
export interface ProjectionBuild {
  /** 1, 2, 3, ... by projection. Names its checkpoints and tables. */
  readonly build: number;
  /** The definition's version. Only processes that have it may run the build. */
  readonly version: number;
  /** How many lanes it is divided into, by stream. Fixed for the life of the build. */
  readonly lanes: number;
  readonly state: "running" | "paused" | "stopped";
  /** Why it was stopped. */
  readonly reason?: string;
  /** When it began, in milliseconds since 1970. */
  readonly startedAt: number;
}

/** A projection as all processes see it. */
export interface ProjectionControl {
  readonly name: string;
  /** Grows by one with each change. */
  readonly revision: number;
  /** The build that queries read from. */
  readonly live: ProjectionBuild;
  /** The build that will replace it. */
  readonly next?: ProjectionBuild;
  /** The live build stands still, so that the next one can draw level with it and take its place. */
  readonly swapping: boolean;
}

/** An event that a projection could not apply and has put aside. */
export interface ParkedEvent {
  readonly projection: string;
  readonly build: number;
  readonly lane: number;
  readonly position: bigint;
  readonly stream: string;
  /** Its version in the stream: read it from there. */
  readonly version: number;
  readonly id: string;
  readonly type: string;
  /** What its last try failed with. */
  readonly error: string;
  readonly attempts: number;
  /** Milliseconds since 1970. */
  readonly parkedAt: number;
}

/** Options of {@linkcode ProjectionStore.parked}. */
export interface ParkedFilter {
  readonly projection: string;
  readonly build: number;
  /** Only positions after this one. @default 0n */
  readonly after?: bigint;
  readonly limit: number;
}

/** Projections by name. */
export interface ProjectionStore {
  /** `undefined` for one that never ran. */
  load(name: string): Promise<ProjectionControl | undefined>;

  /**
   * Saves what was loaded with this revision, or for the first time with revision 0, as the next revision.
   *
   * @throws `CONCURRENCY_CONFLICT` if somebody else saved it meanwhile.
   */
  save(control: ProjectionControl): Promise<void>;

  /** Puts an event aside. Once more for the same position: replaces what is known of it. Call it in the transaction that moves the checkpoint past it. */
  park(event: ParkedEvent): Promise<void>;

  /** The events of a build that were put aside, in order of position. */
  parked(filter: ParkedFilter): Promise<readonly ParkedEvent[]>;

  /** How many there are. */
  countParked(projection: string, build: number): Promise<number>;

  /** Forgets one of them. False if it is not there (any more). */
  unpark(projection: string, build: number, position: bigint): Promise<boolean>;
}
