/**
 * Idempotency keys in Redis, for those without Postgres.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { type Abortable, type Clock, systemClock } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { IdempotencyKeys, IdempotencyState } from "../ports/idempotency.ts";
import type { RedisArgument, RedisConnection, RedisDriver, RedisReply, RedisScript } from "../ports/redis.ts";
import { ABANDON, BEGIN, COMPLETE, RENEW } from "./lua/idempotency.ts";
import { asUnavailable, isOutage } from "./replies.ts";

/** Options of {@linkcode redisIdempotency}. */
export interface RedisIdempotencyOptions {
  /** Makes the connections: `ioredisDriver({ url })`, `clusterDriver`, `sentinelDriver`. Disposed by the caller. */
  readonly driver: RedisDriver;
  /** First part of every key. @default "millstream" */
  readonly prefix?: string;
  /** Deadline of every call to the server, in milliseconds. @default 5_000 */
  readonly timeoutMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

/** Idempotency keys, and the connections they hold. */
export interface RedisIdempotency extends IdempotencyKeys, AsyncDisposable {
  changed(key: string, options: Abortable & { readonly waitMs: number }): Promise<void>;
}

/** How long a claim outlives its lease, so that the same request can take it over, and no other one. */
const GRACE_MS = 86_400_000;
const BLOCK_MS = 2_000;
/** Running keys that are remembered for those who may wait for them. */
const REMEMBERED = 10_000;
/** Tries to keep a result whose confirmation was lost. Keeping it twice is the same as once. */
const COMPLETE_TRIES = 3;

/**
 * Keys for {@linkcode runOnce} and {@linkcode handledOnce}: a claim holds by a lease and a fencing epoch, never by the
 * bare life of a key, so that a caller that was paused past its lease can keep nothing. Who waits for another one's
 * result is told when it is there.
 *
 * As durable as the server: a result that a failover lost lets the operation run again. All keys lie in one slot of a
 * cluster.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function redisIdempotency(options: RedisIdempotencyOptions): RedisIdempotency {
  const { driver, prefix = "millstream", timeoutMs = 5_000, clock = systemClock } = options;
  checkName("prefix", prefix);
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  const base = `${prefix}:{idempotency}:`;
  const ended = `${base}ended`;
  const connection = driver.connect("idempotency");
  const notes = endedNotes({ connect: () => driver.connect("idempotency notes"), ended, clock, timeoutMs });
  /** The last note when a key was seen to be running: a later one may be about it. */
  const seenRunning = new Map<string, string>();

  function remember(key: string, note: string): void {
    seenRunning.delete(key);
    seenRunning.set(key, note);
    const [oldest] = seenRunning.size > REMEMBERED ? seenRunning.keys() : [];
    if (oldest !== undefined) seenRunning.delete(oldest);
  }

  async function run(script: RedisScript, key: string, args: readonly RedisArgument[]): Promise<RedisReply> {
    const keys = [await keyName(base, key), `${base}epochs`, ended];
    try {
      return await connection.script(script, keys, args, { timeoutMs });
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  return {
    async begin(key, fingerprint, leaseMs): Promise<IdempotencyState> {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      const reply = await run(BEGIN, key, [fingerprint, Math.ceil(leaseMs), GRACE_MS]);
      const [state, value] = reply as readonly [IdempotencyState["state"], string | number];
      if (state === "started") return { state, epoch: Number(value) };
      if (state === "done") return { state, result: String(value) };
      if (state === "running") remember(key, String(value));
      return { state };
    },
    async renew(key, epoch, leaseMs) {
      checkRange("leaseMs", leaseMs, 1, 86_400_000);
      return await run(RENEW, key, [epoch, Math.ceil(leaseMs), GRACE_MS]) === 1;
    },
    async complete(key, epoch, result, ttlMs) {
      for (let attempt = 1;; attempt++) {
        try {
          if (await run(COMPLETE, key, [epoch, result, Math.ceil(ttlMs)]) === 1) return;
          throw lost(key, epoch);
        } catch (failure) {
          if (!isOutage(failure) || attempt >= COMPLETE_TRIES) throw failure;
        }
      }
    },
    abandon: async (key, epoch) => void await run(ABANDON, key, [epoch]),
    async changed(key, { waitMs, signal }) {
      const since = seenRunning.get(key) ?? "$";
      seenRunning.delete(key);
      await notes.wait(await keyName(base, key), since, waitMs, signal);
    },
    async [Symbol.asyncDispose]() {
      await notes.close();
      await connection[Symbol.asyncDispose]();
    },
  };
}

interface NotesContext {
  connect(): RedisConnection;
  readonly ended: string;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/** Follows the stream of ended keys while anyone waits. */
function endedNotes({ connect, ended, clock, timeoutMs }: NotesContext): {
  wait(key: string, since: string, ms: number, signal: AbortSignal | undefined): Promise<void>;
  close(): Promise<void>;
} {
  const waiting = new Map<string, Set<() => void>>();
  let connection: RedisConnection | undefined;
  let following: Promise<void> | undefined;
  let closed = false;

  async function follow(from: string): Promise<void> {
    connection ??= connect();
    let last = from;
    while (!closed && waiting.size > 0) {
      try {
        const args = ["block", BLOCK_MS, "streams", ended, last];
        const news = await connection.call("xread", args, { timeoutMs: BLOCK_MS + timeoutMs });
        for (const [id, [, key]] of entriesOf(news)) {
          last = id;
          for (const wake of waiting.get(key) ?? []) wake();
        }
      } catch {
        // Everyone looks again, and finds out what is the matter.
        for (const wakes of waiting.values()) for (const wake of wakes) wake();
      }
    }
    following = undefined;
  }

  return {
    wait(key, since, ms, signal) {
      return new Promise((resolve) => {
        const wakes = waiting.get(key) ?? new Set();
        waiting.set(key, wakes);
        // Where others wait already, their reading may be past our place: a look after a while makes up for it.
        const cancel = clock.after(following ? Math.min(ms, 250) : ms, end);
        signal?.addEventListener("abort", end, { once: true });
        wakes.add(end);
        if (!closed) following ??= follow(since);
        function end(): void {
          cancel();
          signal?.removeEventListener("abort", end);
          wakes.delete(end);
          if (wakes.size === 0) waiting.delete(key);
          resolve();
        }
      });
    },
    async close() {
      closed = true;
      for (const wakes of waiting.values()) for (const wake of wakes) wake();
      await connection?.[Symbol.asyncDispose]();
      await following;
    },
  };
}

type Note = readonly [id: string, fields: readonly [name: string, key: string]];

function entriesOf(reply: RedisReply): readonly Note[] {
  if (reply === null) return [];
  const [[, entries]] = reply as unknown as readonly [readonly [string, readonly Note[]]];
  return entries;
}

/** Keys may be of any length and spelling. */
async function keyName(base: string, key: string): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(key)));
  return `${base}${Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function lost(key: string, epoch: number): MillstreamError {
  return new MillstreamError(
    "LEASE_LOST",
    `Cannot keep the result for idempotency key ${
      describe(key)
    }: epoch ${epoch} no longer runs the operation`,
    { details: { key, epoch } },
  );
}
