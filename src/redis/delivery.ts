/**
 * Deliveries and the leases they stand for, as one consumer knows them.
 *
 * @module
 */
import type { Delivery } from "../ports/broker.ts";
import { decodeMessageFields, decodeState, STATE } from "./entry.ts";
import type { GroupKeys } from "./keys.ts";

/** Which stream an entry is in: 0 the topic's log, 1 the group's retry stream. */
export type StreamKind = 0 | 1;

/** Where a delivery stands on the server: stream, entry and how often it was handed out, which fences settlements. */
export interface Place {
  readonly kind: StreamKind;
  readonly entryId: string;
  readonly count: number;
}

/** One consumer's identity and its leases. */
export interface Membership {
  readonly topic: string;
  readonly group: string;
  /** Random, so that no two processes ever share one; ends with the lease in milliseconds. */
  readonly consumer: string;
  readonly leaseMs: number;
  readonly keys: GroupKeys;
  /**
   * Deliveries that were handed out and not settled, by token, with the time on the server's clock until which no
   * other consumer can have taken them.
   */
  readonly held: Map<string, number>;
}

/** An entry of a stream as XREADGROUP returns it. */
export type RawEntry = readonly [entryId: string, fields: readonly string[]];

/** The delivery of an entry. Its token says where it stands. */
export function toDelivery(
  member: Membership,
  kind: StreamKind,
  [entryId, fields]: RawEntry,
  count: number,
): Delivery {
  const again = kind === 1 && fields[0] === STATE;
  const message = decodeMessageFields(entryId, again ? fields.slice(2) : fields);
  return {
    ...message,
    topic: member.topic,
    group: member.group,
    attempt: again ? decodeState(fields[1]).attempt : 1,
    redelivered: again || count > 1,
    token: `${kind}:${entryId}:${count}`,
  };
}

/** Reads a token. A text that is none stands for an entry that nobody has. */
export function placeOf(token: string): Place {
  const [, kind = "0", entryId = "0-0", count = "0"] = /^([01]):(\d{1,20}-\d{1,20}):(\d{1,9})$/.exec(token) ??
    [];
  return { kind: kind === "1" ? 1 : 0, entryId, count: Number(count) };
}
