/**
 * What a member has read and not handed out: what is ready, what waits for its time, and what waits for its key.
 *
 * An item is always in exactly one place: ready, waiting, behind another one of its key, or out. Every step is O(1),
 * except that a revoked partition is searched for in all of it.
 *
 * @module
 */
import type { Clock } from "../../src/core/clock.ts";
import type { Item } from "./partition.ts";

/** Items of a member. */
export interface Backlog {
  /** A new item. A delayed one does not hold back its key: it comes into being when its time has come. */
  add(item: Item): void;
  /** Hands out up to `max`. Each goes back through `settled` or `back`. */
  take(max: number): Item[];
  /** Done with: the next one of its key may go. */
  settled(item: Item): void;
  /** Comes again when its `notBefore` has come, before its followers. */
  back(item: Item): void;
  /** Forgets all items of partitions that are gone. */
  dropGone(): void;
  readonly ready: number;
  readonly waiting: number;
}

/** The items of one key: the first is ready, waiting or out. */
interface Lane {
  readonly head: Item;
  readonly followers: Item[];
}

/** An empty backlog. @param onReady Called whenever something got ready by the passing of time. */
export function createBacklog(clock: Clock, onReady: () => void): Backlog {
  let first: Item[] = []; // what comes again
  let fresh: Item[] = [];
  let taken = 0; // of `fresh`
  const waiting = new Map<Item, () => void>();
  const lanes = new Map<string, Lane>(); // of keys that have items on their way

  function add(item: Item): void {
    if (isDelayed(item) && item.notBefore > clock.now()) wait(item, () => enter(item));
    else enter(item);
  }

  function enter(item: Item): void {
    const { key } = item.message;
    const lane = key === undefined ? undefined : lanes.get(key);
    if (lane) return void lane.followers.push(item);
    if (key !== undefined) lanes.set(key, { head: item, followers: [] });
    if (item.notBefore > clock.now()) wait(item, () => again(item)); // a predecessor retried it
    else fresh.push(item);
  }

  function wait(item: Item, then: () => void): void {
    const cancel = clock.after(item.notBefore - clock.now(), () => {
      waiting.delete(item);
      then();
      onReady();
    });
    waiting.set(item, cancel);
  }

  function take(max: number): Item[] {
    const items = first.splice(0, max);
    const end = Math.min(fresh.length, taken + max - items.length);
    items.push(...fresh.slice(taken, end));
    taken = end;
    if (taken > 1_000 && taken * 2 > fresh.length) {
      fresh = fresh.slice(taken);
      taken = 0;
    }
    return items;
  }

  function settled({ message: { key } }: Item): void {
    const lane = key === undefined ? undefined : lanes.get(key);
    if (lane) promote(key!, lane);
  }

  function promote(key: string, { followers }: Lane): void {
    const head = followers.shift();
    if (!head) return void lanes.delete(key);
    lanes.set(key, { head, followers });
    back(head);
  }

  function again(item: Item): void {
    const { partition, offset } = item;
    const at = first.findIndex((other) => other.partition === partition && other.offset > offset);
    if (at < 0) first.push(item);
    else first.splice(at, 0, item);
  }

  function back(item: Item): void {
    if (item.notBefore > clock.now()) wait(item, () => again(item));
    else again(item);
  }

  return {
    add,
    take,
    settled,
    back,
    dropGone() {
      const stays = ({ partition }: Item): boolean => !partition.gone;
      first = first.filter(stays);
      fresh = fresh.slice(taken).filter(stays);
      taken = 0;
      for (const [item, cancel] of waiting) {
        if (stays(item)) continue;
        cancel();
        waiting.delete(item);
      }
      for (const [key, { head, followers }] of lanes) {
        const lane = { head, followers: followers.filter(stays) };
        if (stays(head)) lanes.set(key, lane);
        else promote(key, lane);
      }
    },
    get ready() {
      return first.length + fresh.length - taken;
    },
    get waiting() {
      return waiting.size;
    },
  };
}

/** Published with a delay, and not tried yet: then its key does not wait for it. */
export function isDelayed({ attempt, notBefore }: Item): boolean {
  return attempt === 1 && notBefore > 0;
}
