/**
 * Deliveries and the leases they stand for, as one consumer knows them.
 *
 * @module
 */
import type { EncodedMessage } from "../core/message.ts";
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
  readonly ledger: Ledger;
}

/** What a consumer knows of its deliveries, by token. */
export interface Ledger {
  /** Notes that no other consumer can have this delivery before `until` on the server's clock, in milliseconds. */
  hold(token: string, until: number): void;
  /** That time; 0 for a delivery that is not held (any more). */
  until(token: string): number;
  /** Notes that it was settled. */
  settle(token: string): void;
  /** Whether it was settled, as far as remembered: settling twice is the same as once. */
  isSettled(token: string): boolean;
  /** Forgets it: someone else has it. */
  lose(token: string): void;
  /** All that are held. */
  held(): readonly string[];
  /** Forgets those that were never settled and whose time was up before `time`. */
  expire(time: number): void;
}

/** Settled deliveries remembered at most, unless more than that are held. */
const SETTLED_KEPT = 1_000;
const SETTLED = -1;

/** An empty {@linkcode Ledger}. One map for all, written twice for every message: this is the hottest path there is. */
export function ledger(): Ledger {
  let entries = new Map<string, number>();
  let settled = 0;

  function settle(token: string): void {
    entries.set(token, SETTLED);
    // Not before as many are settled as are held: then each pays for one more look at most.
    if (++settled > SETTLED_KEPT && settled > entries.size / 2) keep((until) => until !== SETTLED);
  }

  function keep(wanted: (until: number) => boolean): void {
    entries = new Map([...entries].filter(([, until]) => wanted(until)));
    settled = 0;
    for (const until of entries.values()) if (until === SETTLED) settled++;
  }

  return {
    hold: (token, until) => void entries.set(token, until),
    until: (token) => Math.max(0, entries.get(token) ?? 0),
    settle,
    isSettled: (token) => entries.get(token) === SETTLED,
    lose: (token) => void entries.delete(token),
    held: () => [...entries].filter(([, until]) => until !== SETTLED).map(([token]) => token),
    expire: (time) => keep((until) => until === SETTLED || until >= time),
  };
}

/** An entry of a stream as XREADGROUP returns it. */
export type RawEntry = readonly [entryId: string, fields: readonly string[]];

/** The delivery of an entry that was handed out `count` times. Its token says where it stands. */
export function toDelivery(
  member: Membership,
  kind: StreamKind,
  [entryId, fields]: RawEntry,
  count: number,
): Delivery {
  if (kind === 1 && fields[0] === STATE) {
    const { attempt } = decodeState(fields[1]);
    const token = `${kind}:${entryId}:${count}`;
    return delivery(member, decodeMessageFields(entryId, fields.slice(2)), attempt, count > 1, token);
  }
  const token = kind === 0 && count === 1 ? `0:${entryId}:1` : `${kind}:${entryId}:${count}`;
  return delivery(member, decodeMessageFields(entryId, fields), 1, count > 1, token);
}

function delivery(
  { topic, group }: Membership,
  { id, type, key, body }: EncodedMessage,
  attempt: number,
  redelivered: boolean,
  token: string,
): Delivery {
  // Written out twice: spreading one object into another costs more than everything else here.
  if (key === undefined) return { id, type, body, topic, group, attempt, redelivered, token };
  return { id, type, key, body, topic, group, attempt, redelivered, token };
}

/** Reads a token. A text that is none stands for an entry that nobody has. */
export function placeOf(token: string): Place {
  const end = token.lastIndexOf(":");
  const entryId = token.slice(2, end);
  const count = Number(token.slice(end + 1));
  if (!ENTRY_ID.test(entryId) || !(count >= 0)) return { kind: 0, entryId: "0-0", count: 0 };
  return { kind: token.startsWith("1") ? 1 : 0, entryId, count };
}

const ENTRY_ID = /^\d{1,20}-\d{1,20}$/;
