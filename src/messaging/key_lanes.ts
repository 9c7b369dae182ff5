/**
 * Keeps the work of one key in order in this process, for brokers that do not do it for the whole group.
 *
 * @module
 */

/** Who may go, by key. */
export interface KeyLanes<T> {
  /** Those that wait for another one of their key. */
  readonly size: number;
  /** True if it may go at once; else it waits until `leave` returns it. */
  enter(key: string, item: T): boolean;
  /** One of the key has ended: the next one, if there is any. */
  leave(key: string): T | undefined;
  /** Takes out all that wait. */
  clear(): T[];
}

/** Empty lanes. */
export function keyLanes<T>(): KeyLanes<T> {
  const lanes = new Map<string, T[]>(); // present: one of the key is on its way
  let size = 0;
  return {
    get size() {
      return size;
    },
    enter(key, item) {
      const followers = lanes.get(key);
      if (!followers) {
        lanes.set(key, []);
        return true;
      }
      followers.push(item);
      size++;
      return false;
    },
    leave(key) {
      const next = lanes.get(key)?.shift();
      if (next === undefined) lanes.delete(key);
      else size--;
      return next;
    },
    clear() {
      size = 0;
      return [...lanes.values()].flatMap((followers) => followers.splice(0));
    },
  };
}
