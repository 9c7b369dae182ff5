/**
 * What happened, for whoever wants to know: metrics, logs, traces and tests listen here.
 *
 * @module
 */

/** Something that happened while running. Plain data; never contains payloads. */
export type Observation =
  | { readonly kind: "published"; readonly topic: string; readonly count: number }
  | {
    readonly kind: "handled";
    readonly topic: string;
    readonly group: string;
    readonly type: string;
    readonly id: string;
    readonly attempt: number;
    readonly durationMs: number;
  }
  | {
    readonly kind: "ignored";
    readonly topic: string;
    readonly group: string;
    readonly type: string;
    readonly id: string;
  }
  | { readonly kind: "duplicate"; readonly topic: string; readonly group: string; readonly id: string }
  | {
    readonly kind: "retried";
    readonly topic: string;
    readonly group: string;
    readonly id: string;
    readonly attempt: number;
    readonly delayMs: number;
    readonly error: Error;
  }
  | {
    readonly kind: "dead-lettered";
    readonly topic: string;
    readonly group: string;
    readonly id: string;
    readonly attempt: number;
    readonly error: Error;
  }
  | {
    /** A group has more, or older, dead letters than it should. */
    readonly kind: "dead-letters";
    readonly topic: string;
    readonly group: string;
    readonly depth: number;
    readonly oldestMs: number;
  }
  | { readonly kind: "lease-lost"; readonly what: string; readonly id: string }
  | {
    /** A consumer takes nothing: it was told so, or, with an error, its breaker opened. */
    readonly kind: "paused";
    readonly topic: string;
    readonly group: string;
    readonly error?: Error;
  }
  | { readonly kind: "resumed"; readonly topic: string; readonly group: string }
  | { readonly kind: "data-loss-suspected"; readonly what: string; readonly detail: string }
  /** A group that settles nothing any more keeps a topic from being trimmed: what it holds is that much too old. */
  | { readonly kind: "topic-pinned"; readonly topic: string; readonly group: string; readonly lateMs: number }
  /** The server is set up in a way that may lose what it accepted. */
  | { readonly kind: "server-warning"; readonly what: string; readonly detail: string }
  | { readonly kind: "loop-failed"; readonly loop: string; readonly error: Error }
  | { readonly kind: "relayed"; readonly count: number }
  /** For how long the oldest unsent message has been in the outbox, in milliseconds. Every few seconds. */
  | { readonly kind: "outbox"; readonly oldestMs: number }
  | {
    readonly kind: "projected";
    readonly projection: string;
    readonly count: number;
    readonly position: bigint;
  }
  | {
    readonly kind: "parked";
    readonly projection: string;
    readonly position: bigint;
    readonly stream: string;
    readonly id: string;
    readonly error: Error;
  }
  | {
    readonly kind: "projection";
    readonly projection: string;
    readonly state: "running" | "paused" | "stopped" | "swapped";
    /** The live build, and the one that is being built beside it. */
    readonly build: number;
    readonly next?: number;
  }
  | {
    readonly kind: "snapshot-ignored";
    readonly stream: string;
    readonly reason: string;
  }
  | {
    readonly kind: "saga";
    readonly saga: string;
    readonly id: string;
    readonly step: string | undefined;
    readonly status: string;
    readonly error?: Error;
  };

/** Called for each observation, synchronously. What it throws is ignored. */
export type Observer = (observation: Observation) => void;

/** An observer that cannot break its caller. */
export function safeObserver(observer: Observer | undefined): Observer {
  if (!observer) return () => {};
  return (observation) => {
    try {
      observer(observation);
    } catch {
      // An observer that fails must never fail the work it observes.
    }
  };
}
