/**
 * The snapshot port: states of streams, kept to save reading. Never the truth: who loads one checks it against the
 * stream, and does without it in case of doubt.
 *
 * @module
 */

/** The state of a stream at a version. */
export interface Snapshot {
  readonly stream: string;
  /** What computed the state. Another fold never sees it. Up to 200 characters. */
  readonly fold: string;
  /** The last event that is in the state. */
  readonly version: number;
  /** Its id. */
  readonly eventId: string;
  /** JSON text. */
  readonly state: string;
}

/** Snapshots by stream and fold. */
export interface Snapshots {
  load(stream: string, fold: string): Promise<Snapshot | undefined>;

  /** Keeps it in place of the earlier one of this stream and fold. Those of other folds go after a week without a save. */
  save(snapshot: Snapshot): Promise<void>;
}
