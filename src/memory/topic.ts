/**
 * A topic in memory: its log, the ids it has seen, its groups, and messages whose time has not come.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { EncodedMessage } from "../core/message.ts";
import type { StartFrom } from "../ports/broker.ts";
import { createGroup, type Group, type NewItem } from "./group.ts";
import { timetable } from "./timetable.ts";

/** How many ids of a topic are remembered to recognise what is published again. */
const REMEMBERED_IDS = 10_000;

/** Bounds of a topic. */
export interface TopicBounds {
  /** Messages kept for later groups and readers. */
  readonly retention: number;
  /** Messages waiting in one group. */
  readonly capacity: number;
}

/** A topic. Messages have places 1, 2, 3, ... */
export interface Topic {
  readonly groups: ReadonlyMap<string, Group>;
  /** Messages whose time has not come. They belong to no group yet. */
  readonly delayed: number;
  /** Place of the oldest message that is kept. */
  readonly first: number;
  /** Place of the newest message. */
  readonly last: number;
  publish(messages: readonly EncodedMessage[], delayMs: number): void;
  /** Takes back a message whose time has not come. `undefined` if there is none with this id. */
  recall(id: string): EncodedMessage | undefined;
  /** Gives a message that was taken back another time. */
  later(message: EncodedMessage, delayMs: number): void;
  group(name: string, from: StartFrom): Group;
  /** Up to `limit` messages after `place` that are kept. */
  read(place: number, limit: number): NewItem[];
  /** Forgets all but the newest `keep` messages. Groups are not concerned. */
  trim(keep: number): void;
  close(): void;
}

/** An empty topic. `onGrown` is called whenever its log has grown. */
export function createTopic(name: string, bounds: TopicBounds, clock: Clock, onGrown: () => void): Topic {
  const groups = new Map<string, Group>();
  const seen = recentIds();
  const delayed = timetable<EncodedMessage>(clock, fallDue);
  const recalls = new Map<string, () => EncodedMessage>(); // by id of a delayed message
  let log: NewItem[] = [];
  let dropped = 0; // entries at the start of `log` that count as gone
  let last = 0;
  let lastAt = 0;

  function append(messages: readonly EncodedMessage[]): void {
    lastAt = Math.max(lastAt, clock.now()); // a wall clock may be set back, the log is searched by time
    const at = lastAt;
    const items = messages.map((message) => ({ message, place: ++last, at }));
    for (const item of items) log.push(item);
    trim(bounds.retention);
    for (const group of groups.values()) group.add(items);
    onGrown();
  }

  function fallDue(messages: readonly EncodedMessage[]): void {
    for (const { id } of messages) recalls.delete(id);
    append(messages);
  }

  function later(message: EncodedMessage, delayMs: number): void {
    if (delayMs <= 0) return append([message]);
    const takeBack = delayed.add(message, delayMs);
    recalls.set(message.id, () => {
      takeBack();
      return message;
    });
  }

  function trim(keep: number): void {
    dropped = Math.max(dropped, log.length - keep);
    if (dropped < 1_024 || dropped < log.length / 2) return;
    log = log.slice(dropped);
    dropped = 0;
  }

  function first(): number {
    return last - (log.length - dropped) + 1;
  }

  function checkCapacity(more: number): void {
    let most = 0;
    for (const group of groups.values()) most = Math.max(most, group.size);
    if (most + delayed.size + more <= bounds.capacity) return;
    throw new MillstreamError(
      "OVERLOADED",
      `Cannot publish to topic "${name}": a group has ${most} messages waiting, the limit is ${bounds.capacity}`,
      { details: { topic: name, capacity: bounds.capacity } },
    );
  }

  function read(place: number, limit: number): NewItem[] {
    const start = Math.max(place + 1, first());
    const offset = dropped + start - first();
    return log.slice(offset, offset + limit);
  }

  /** The last place before a moment, found by halving. */
  function placeBefore(since: number): number {
    let low = dropped;
    for (let high = log.length; low < high;) {
      const middle = (low + high) >> 1;
      if (log[middle]!.at < since) low = middle + 1;
      else high = middle;
    }
    return first() + low - dropped - 1;
  }

  return {
    groups,
    get delayed() {
      return delayed.size;
    },
    get first() {
      return first();
    },
    get last() {
      return last;
    },
    publish(messages, delayMs) {
      checkCapacity(messages.length);
      const fresh = messages.filter(({ id }) => seen.add(id));
      if (fresh.length === 0) return;
      if (delayMs <= 0) return append(fresh);
      for (const message of fresh) later(message, delayMs);
    },
    recall(id) {
      const message = recalls.get(id)?.();
      recalls.delete(id);
      return message;
    },
    later,
    group(groupName, from) {
      const known = groups.get(groupName);
      if (known) return known;
      const group = createGroup(groupName, clock);
      groups.set(groupName, group);
      if (from !== "now") group.add(read(from === "start" ? 0 : placeBefore(from.since), Infinity));
      return group;
    },
    read,
    trim,
    close() {
      delayed.close();
      for (const group of groups.values()) group.close();
    },
  };
}

/** The last so many ids. `add` is false for one that is among them. */
function recentIds(): { add(id: string): boolean } {
  const ids = new Set<string>();
  const ring: string[] = [];
  let next = 0;
  return {
    add(id) {
      if (ids.has(id)) return false;
      const oldest = ring[next];
      if (oldest !== undefined) ids.delete(oldest);
      ids.add(id);
      ring[next] = id;
      next = (next + 1) % REMEMBERED_IDS;
      return true;
    },
  };
}
