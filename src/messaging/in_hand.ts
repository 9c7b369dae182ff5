/**
 * The deliveries a consumer has in hand, from pull to settlement, and what may end their handling early.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Delivery } from "../ports/broker.ts";

/** One try of one delivery, as its handler sees it. */
export interface Attempt {
  readonly delivery: Delivery;
  /** Aborts with `LEASE_LOST`, `HANDLER_TIMEOUT`, or at shutdown with `ABORTED`. Made when it is first asked for. */
  readonly signal: AbortSignal;
  /** Throws the reason, if it was aborted. */
  throwIfAborted(): void;
}

/** A delivery in hand. */
export interface InHand extends Attempt {
  /** When it was taken, monotonic. */
  readonly takenAt: number;
  /** When its handler began, monotonic. */
  beganAt: number;
  /** Why it was aborted, if it was. */
  readonly reason: Error | undefined;
  /** Whether it is decided what becomes of it. */
  isEnded: boolean;
  /** Called when that is decided. */
  onEnded: (() => void) | undefined;
  /** Called once when the handling is to end early. Set while the handler runs. */
  onAbort: ((reason: Error) => void) | undefined;
  /** Aborts the handling. The second time does nothing. */
  abort(reason: Error): void;
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
  /** Aborts the handling of all. */
  abortAll(reason: Error): void;
  all(): Delivery[];
}

/** An empty {@linkcode Hand}. */
export function emptyHand(): Hand {
  const held = new Map<string, InHand>();
  return {
    get size() {
      return held.size;
    },
    add(delivery, takenAt) {
      const entry = inHand(delivery, takenAt);
      held.set(delivery.token, entry);
      return entry;
    },
    remove: ({ token }) => void held.delete(token),
    lose(delivery) {
      const lost = held.get(delivery.token);
      held.delete(delivery.token);
      lost?.abort(
        new MillstreamError("LEASE_LOST", `Cannot go on with message "${delivery.id}": its lease was lost`),
      );
      return lost !== undefined;
    },
    abortAll(reason) {
      for (const entry of [...held.values()]) entry.abort(reason);
    },
    all: () => Array.from(held.values(), ({ delivery }) => delivery),
  };
}

function inHand(delivery: Delivery, takenAt: number): InHand {
  // Most handlers never ask for the signal, and a controller costs more than all else that is made for a message.
  let controller: AbortController | undefined;
  let why: Error | undefined;
  const entry: InHand = {
    delivery,
    takenAt,
    beganAt: takenAt,
    isEnded: false,
    onAbort: undefined,
    onEnded: undefined,
    get reason() {
      return why;
    },
    get signal() {
      controller ??= new AbortController();
      if (why) controller.abort(why);
      return controller.signal;
    },
    throwIfAborted() {
      if (why) throw why;
    },
    abort(reason) {
      if (why) return;
      why = reason;
      controller?.abort(reason);
      entry.onAbort?.(reason);
    },
  };
  return entry;
}

/** What runs, with one timer for all of it: as every try has the same time, the first to begin is the first to be late. */
export interface Runs {
  readonly size: number;
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
