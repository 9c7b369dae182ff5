/**
 * What the parts of a broker share.
 *
 * @module
 */
import type { Clock } from "../../core/clock.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { SqlSession } from "../../ports/sql.ts";
import type { Bells, PollIntervals } from "../wakeup.ts";
import type { Watermark } from "../watermark.ts";

/** What a broker needs of its store. */
export interface BrokerContext {
  readonly session: SqlSession;
  /** The quoted schema. */
  readonly schema: string;
  /** For waiting only. */
  readonly clock: Clock;
  readonly intervals: PollIntervals;
  /** How far the messages can be read. */
  readonly watermark: Watermark;
  /** By topic and group: rung when this process made something ready there. */
  readonly bells: Bells;
  readonly ping: () => Promise<void>;
}

/** Refuses calls on something that was disposed. */
export function checkOpen(open: boolean): void {
  if (!open) throw new MillstreamError("CLOSED", "Cannot use the broker: it was closed");
}
