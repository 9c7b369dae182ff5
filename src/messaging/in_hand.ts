/**
 * The deliveries a consumer has in hand, from pull to settlement, and what may end their handling early.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Delivery } from "../ports/broker.ts";

/** One try of one delivery: plain data, as one is made for every message. */
export interface Attempt {
  readonly delivery: Delivery;
  /** Why it was aborted, if it was: `LEASE_LOST`, `HANDLER_TIMEOUT`, or at shutdown `ABORTED`. */
  reason: Error | undefined;
  /** Made when a handler first asks for the signal: most never do, and it costs more than all the rest. */
  controller: AbortController | undefined;
}

/** The signal of a try. */
export function signalOf(attempt: Attempt): AbortSignal {
  attempt.controller ??= new AbortController();
  if (attempt.reason) attempt.controller.abort(attempt.reason);
  return attempt.controller.signal;
}

/** Throws the reason, if it was aborted. */
export function throwIfAborted({ reason }: Attempt): void {
  if (reason) throw reason;
}

/** A delivery in hand. */
export interface InHand extends Attempt {
  /** When it was taken, monotonic. */
  readonly takenAt: number;
  /** When its handler began, monotonic. */
  beganAt: number;
  /** Whether it is decided what becomes of it. */
  isEnded: boolean;
  /** Called when that is decided. */
  onEnded: (() => void) | undefined;
  /** Whether a handler runs that an abort must not wait for. */
  isRunning: boolean;
}

/** What a consumer has in hand. */
export interface Hand {
  /** Deliveries that are not settled. */
  readonly size: number;
  add(delivery: Delivery, takenAt: number): InHand;
  /** Settled, or not ours any more. */
  remove(delivery: Delivery): void;
  /** Aborts the delivery's handling with `LEASE_LOST`. False if it is not in hand. */
  lose(delivery: Delivery): boolean;
  /** Aborts the handling of one. The second time does nothing. */
  abort(entry: InHand, reason: Error): void;
  /** Aborts the handling of all. */
  abortAll(reason: Error): void;
  all(): Delivery[];
}

/** An empty {@linkcode Hand}. `onAborted` is told when a running handler is not to be waited for any longer. */
export function emptyHand(onAborted: (entry: InHand, reason: Error) => void): Hand {
  const held = new Map<string, InHand>();

  function abort(entry: InHand, reason: Error): void {
    if (entry.reason) return;
    entry.reason = reason;
    entry.controller?.abort(reason);
    if (entry.isRunning) onAborted(entry, reason);
  }

  return {
    get size() {
      return held.size;
    },
    add(delivery, takenAt) {
      const entry: InHand = {
        delivery,
        reason: undefined,
        controller: undefined,
        takenAt,
        beganAt: takenAt,
        isEnded: false,
        onEnded: undefined,
        isRunning: false,
      };
      held.set(delivery.token, entry);
      return entry;
    },
    remove: ({ token }) => void held.delete(token),
    lose(delivery) {
      const lost = held.get(delivery.token);
      held.delete(delivery.token);
      if (lost) {
        const why = `Cannot go on with message "${delivery.id}": its lease was lost`;
        abort(lost, new MillstreamError("LEASE_LOST", why));
      }
      return lost !== undefined;
    },
    abort,
    abortAll(reason) {
      for (const entry of [...held.values()]) abort(entry, reason);
    },
    all: () => Array.from(held.values(), ({ delivery }) => delivery),
  };
}

/** What runs, with one timer for all of it: as every try has the same time, the first to begin is the first to be late. */
export interface Runs {
  readonly size: number;
  /** When the oldest one began, monotonic. */
  readonly oldestAt: number;
  add(entry: InHand): void;
  remove(entry: InHand): void;
  close(): void;
}

/** Nothing runs yet. `onLate` gets each try that took `timeoutMs`. */
export function runs(clock: Clock, timeoutMs: number, onLate: (entry: InHand) => void): Runs {
  const running = new Set<InHand>(); // in the order they began
  let cancel: (() => void) | undefined;

  function watch(): void {
    const [first] = running;
    if (!first || cancel) return;
    cancel = clock.after(Math.max(0, first.beganAt + timeoutMs - clock.monotonic()), () => {
      cancel = undefined;
      const now = clock.monotonic();
      for (const entry of running) {
        if (entry.beganAt + timeoutMs > now) break;
        running.delete(entry);
        onLate(entry);
      }
      watch();
    });
  }

  return {
    get size() {
      return running.size;
    },
    get oldestAt() {
      const [first] = running;
      return first ? first.beganAt : Infinity;
    },
    add(entry) {
      running.add(entry);
      if (!cancel) watch();
    },
    remove: (entry) => void running.delete(entry),
    close() {
      cancel?.();
      cancel = () => {};
    },
  };
}
