/**
 * Loops that must run: they survive every error, say that they run, and stop when told.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { type Clock, sleep } from "../core/clock.ts";
import { isMillstreamError, toError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";

/** How a loop is doing. */
export interface LoopHealth {
  readonly name: string;
  /** Milliseconds since it last said that it runs. */
  readonly silentMs: number;
  /** Whether it spoke within three periods and its last three rounds did not all fail. */
  readonly healthy: boolean;
  /** What needs attention although the loop runs. */
  readonly warning?: string;
  /** What its last round failed with, if it did. */
  readonly error?: string;
}

/** A running loop. */
export interface Loop {
  health(): LoopHealth;
  /** Ends a wait for work now. */
  wake(): void;
  /** Stops it and resolves when the round under way has ended. Idempotent. */
  stop(): Promise<void>;
}

/** What a loop needs. */
export interface LoopOptions {
  readonly name: string;
  readonly clock: Clock;
  readonly observer: Observer;
  /** The longest a round normally takes, in milliseconds, its own waiting included. */
  readonly periodMs: number;
}

/** One round. Returns how many milliseconds to rest before the next; 0 for none. */
export type LoopRound = (signal: AbortSignal, beat: () => void) => Promise<number>;

const FAILURE_BACKOFF = retryPolicy({ baseMs: 200, maxMs: 10_000 });

/** Starts a loop. A failed round is observed, backed off (full jitter, at most a period or 10 s) and repeated for ever. */
export function startLoop(options: LoopOptions, round: LoopRound): Loop {
  const { name, clock, observer, periodMs } = options;
  const stopping = new AbortController();
  let lastBeat = clock.monotonic();
  let failures = 0;
  let lastError: string | undefined;
  let rest: AbortController | undefined;
  let woken = false;

  const beat = (): void => void (lastBeat = clock.monotonic());
  const running = run();

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      beat();
      const restMs = await runRound();
      // News does not shorten the pause after a failure: a busy application would hammer a server that is down.
      if (restMs > 0 && (failures > 0 || !woken)) await pause(restMs);
      woken = false;
    }
  }

  async function runRound(): Promise<number> {
    try {
      const restMs = await round(stopping.signal, beat);
      failures = 0;
      lastError = undefined;
      return restMs;
    } catch (thrown) {
      if (stopping.signal.aborted && isMillstreamError(thrown, "ABORTED", "CLOSED")) return 0;
      const error = toError(thrown);
      lastError = error.message;
      observer({ kind: "loop-failed", loop: name, error });
      return Math.max(10, Math.min(backoffDelay(++failures, FAILURE_BACKOFF), periodMs));
    }
  }

  async function pause(ms: number): Promise<void> {
    rest = new AbortController();
    const onStop = (): void => rest?.abort();
    stopping.signal.addEventListener("abort", onStop, { once: true });
    try {
      if (!stopping.signal.aborted) await sleep(clock, ms, rest.signal);
    } catch {
      // Woken or stopped: both just end the rest.
    } finally {
      stopping.signal.removeEventListener("abort", onStop);
      rest = undefined;
    }
  }

  return {
    health() {
      const silentMs = Math.round(clock.monotonic() - lastBeat);
      const healthy = silentMs <= periodMs * 3 && failures < 3;
      return lastError === undefined
        ? { name, silentMs, healthy }
        : { name, silentMs, healthy, error: lastError };
    },
    wake() {
      woken = true;
      if (failures === 0) rest?.abort();
    },
    stop() {
      stopping.abort();
      return running;
    },
  };
}
