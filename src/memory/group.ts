/**
 * A consumer group in memory: what is ready, what waits for its time, and what waits for its key.
 *
 * Every group has its own items; they share the messages. An item is always in exactly one place: ready, delayed,
 * behind another one of its key, or out with a consumer. Every step is O(1) or O(log n), whatever the backlog.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import type { EncodedMessage } from "../core/message.ts";
import { heap } from "./heap.ts";
import { timetable } from "./timetable.ts";

/** A message on its way through one group. */
export interface Item {
  readonly message: EncodedMessage;
  /** Its place in the topic, which it keeps when it comes again. */
  readonly place: number;
  /** When the topic took it in; when it was redriven, if it was. */
  readonly at: number;
  readonly redrives: number;
  attempt: number;
  /** Handlers that have begun since it was last settled, retried or released. */
  starts: number;
  redelivered: boolean;
  firstFailedAt: number | undefined;
  /** The next one of the same key. */
  follower: Item | undefined;
  /** Its neighbours among the unsettled items of the group, in the order they came in. */
  older: Item | undefined;
  newer: Item | undefined;
}

/** What a group starts an item with: an entry of the topic's log. */
export interface NewItem {
  readonly message: EncodedMessage;
  readonly place: number;
  /** Wall clock in milliseconds. */
  readonly at: number;
  readonly redrives?: number;
}

/** A group. */
export interface Group {
  readonly name: string;
  /** Unsettled items, wherever they are. */
  readonly size: number;
  readonly ready: number;
  readonly inFlight: number;
  readonly delayed: number;
  /** When the oldest unsettled item came in. */
  readonly oldestAt: number | undefined;
  /** Dead letters of this group. Kept by who keeps the dead letters. */
  dead: number;
  /** New items, and redriven ones. */
  add(items: readonly NewItem[]): void;
  /** Hands out up to `max` items. Each goes back through `settled`, `later` or `back`. */
  take(max: number): Item[];
  /** Calls `give` once with up to `max` items as soon as there are any. Returns how to stop waiting. */
  wait(max: number, give: (items: Item[]) => void): () => void;
  /** Done with, one way or the other: the next one of its key may go. */
  settled(item: Item): void;
  /** Comes again after `delayMs`. Its key waits for it. */
  later(item: Item, delayMs: number): void;
  /** Comes again now, in its old place. */
  back(items: readonly Item[]): void;
  close(): void;
}

/** The last item of a key that has items in the group. */
type Lanes = Map<string, Item>;

/** An empty group. */
export function createGroup(name: string, clock: Clock): Group {
  const lanes: Lanes = new Map();
  const ready = heap<Item>((a, b) => a.place < b.place);
  const delayed = timetable<Item>(clock, (items) => {
    for (const item of items) ready.push(item);
    serve();
  });
  const waiters = new Set<{ readonly max: number; readonly give: (items: Item[]) => void }>();
  let oldest: Item | undefined;
  let newest: Item | undefined;
  let inFlight = 0;
  let size = 0;

  function link(item: Item): void {
    item.older = newest;
    if (newest) newest.newer = item;
    else oldest = item;
    newest = item;
  }

  function unlink(item: Item): void {
    if (item.older) item.older.newer = item.newer;
    else oldest = item.newer;
    if (item.newer) item.newer.older = item.older;
    else newest = item.older;
    item.older = item.newer = undefined;
  }

  function take(max: number): Item[] {
    const items: Item[] = [];
    while (items.length < max && ready.size > 0) items.push(ready.pop()!);
    inFlight += items.length;
    return items;
  }

  function serve(): void {
    for (const waiter of waiters) {
      if (ready.size === 0) return;
      waiters.delete(waiter);
      waiter.give(take(waiter.max));
    }
  }

  /** Ready, unless another one of its key is before it. */
  function enter(item: Item): void {
    const { key } = item.message;
    const last = key === undefined ? undefined : lanes.get(key);
    if (key !== undefined) lanes.set(key, item);
    if (last) last.follower = item;
    else ready.push(item);
  }

  return {
    name,
    get size() {
      return size;
    },
    get ready() {
      return size - inFlight - delayed.size;
    },
    get inFlight() {
      return inFlight;
    },
    get delayed() {
      return delayed.size;
    },
    get oldestAt() {
      return oldest?.at;
    },
    dead: 0,
    add(items) {
      size += items.length;
      for (const entry of items) {
        const item = newItem(entry);
        link(item);
        enter(item);
      }
      serve();
    },
    take,
    wait(max, give) {
      const waiter = { max, give };
      waiters.add(waiter);
      return () => waiters.delete(waiter);
    },
    settled(item) {
      inFlight--;
      size--;
      unlink(item);
      const { key } = item.message;
      if (item.follower) ready.push(item.follower);
      else if (key !== undefined) lanes.delete(key);
      item.follower = undefined;
      serve();
    },
    later(item, delayMs) {
      inFlight--;
      if (delayMs > 0) return delayed.add(item, delayMs);
      ready.push(item);
      serve();
    },
    back(items) {
      inFlight -= items.length;
      for (const item of items) ready.push(item);
      serve();
    },
    close: () => delayed.close(),
  };
}

function newItem({ message, place, at, redrives = 0 }: NewItem): Item {
  return {
    message,
    place,
    at,
    redrives,
    attempt: 1,
    starts: 0,
    redelivered: false,
    firstFailedAt: undefined,
    follower: undefined,
    older: undefined,
    newer: undefined,
  };
}
