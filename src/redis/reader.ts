/**
 * How deliveries come to a consumer: a connection of its own, on which a plain XREADGROUP waits for the topic's log and
 * the group's retry stream together. What has a key then asks for its turn. Between reads it moves what is due, takes
 * over what others left behind, and after a broken connection what the server handed out into the void.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { abortable, aborted, type Clock, sleep } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";
import type { Delivery, PullOptions } from "../ports/broker.ts";
import type { RedisConnection, RedisReply, RedisScript } from "../ports/redis.ts";
import { type Membership, placeOf, type RawEntry, type StreamKind, toDelivery } from "./delivery.ts";
import { laneKey } from "./entry.ts";
import { laneKeys } from "./keys.ts";
import { ADMIT, PARKED_MAX } from "./lua/lanes.ts";
import { RECLAIM, SWEEP } from "./lua/take.ts";
import { asUnavailable, isMissingGroup, isOutage } from "./replies.ts";

/** What {@linkcode reader} needs. */
export interface ReaderContext {
  readonly member: Membership;
  /** For this reader alone. */
  readonly connection: RedisConnection;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly timeoutMs: number;
  /** Makes the group again after it vanished. */
  readonly rejoin: () => Promise<void>;
  /** Gives back what arrived for nobody. Never rejects. */
  readonly handBack: (deliveries: readonly Delivery[]) => Promise<void>;
}

/** Brings deliveries. */
export interface Reader {
  /** See `Subscription.pull`. */
  take(max: number, options: PullOptions): Promise<readonly Delivery[]>;
  /** Ends a waiting `take` with nothing and closes the connection. */
  close(): Promise<void>;
}

/** The longest a read blocks on the server; with the grace, a dead connection is noticed after four seconds. */
const BLOCK_MS = 1_500;
const GRACE_MS = 2_500;
/** How often to look for leases that ran out and for messages that are due. */
const SWEEP_MS = 1_500;
const NOTE_MS = 10_000;
/** Entries per script call: while it runs, the server does nothing else. */
const PER_CALL = 500;
const BACKOFF = retryPolicy({ attempts: 1, baseMs: 50, factor: 2, maxMs: 1_000 });

/** Creates the reader of a consumer. */
export function reader(context: ReaderContext): Reader {
  const { member, connection, clock, observe, rejoin, handBack } = context;
  const { topic, group, consumer, leaseMs, keys, ledger } = member;
  const graceMs = Math.min(GRACE_MS, context.timeoutMs);
  const sweepMs = Math.min(SWEEP_MS, Math.max(100, leaseMs / 4));
  let closed = false;
  let turn = Promise.resolve();
  let step: Promise<void> | undefined;
  let taker: Taker | undefined;
  let outOfTouch = false;
  let strayed = 0;
  let retriesWaiting = false;
  let retriesTurn = false;
  let sweepAt = clock.monotonic();
  let noteAt = clock.monotonic() + NOTE_MS;
  let serverTime = 0;
  let parked = 0;
  const lanes = laneKeys(keys);

  connection.onReconnect(() => outOfTouch = true);

  /** One taker at a time; others wait in line. */
  function take(max: number, { waitMs, signal }: PullOptions): Promise<readonly Delivery[]> {
    const deadline = clock.monotonic() + waitMs;
    const before = turn;
    const mine = abortable(before, signal).then(() => takeUntil(max, deadline, signal));
    turn = before.then(() => mine).then(() => {}, () => {});
    return mine;
  }

  async function takeUntil(
    max: number,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Promise<readonly Delivery[]> {
    for (let failures = 0;;) {
      if (signal?.aborted) throw aborted(signal);
      if (closed) return [];
      try {
        const taken = await arrival(max, deadline, signal);
        if (taken.length > 0 || closed || clock.monotonic() >= deadline) return taken;
        failures = 0;
      } catch (error) {
        if (closed) return [];
        if (!isOutage(error)) throw error;
        observe({ kind: "loop-failed", loop: `redis reader of ${topic}/${group}`, error });
        const delayMs = backoffDelay(++failures, BACKOFF);
        if (clock.monotonic() + delayMs >= deadline) throw asUnavailable(error);
        await sleep(clock, delayMs, signal);
      }
    }
  }

  /**
   * Waits for the step under way, or starts one. A step cannot be called off: if its taker leaves, the next taker gets
   * what it brings, and if there is none by then it goes back to the group.
   */
  function arrival(
    max: number,
    deadline: number,
    signal: AbortSignal | undefined,
  ): Promise<readonly Delivery[]> {
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        signal?.removeEventListener("abort", onAbort);
        if (taker === me) taker = undefined;
      };
      const onAbort = (): void => {
        leave();
        reject(aborted(signal));
      };
      const me: Taker = {
        max,
        deliver(deliveries) {
          leave();
          resolve(deliveries);
        },
        fail(error) {
          leave();
          reject(error);
        },
      };
      taker = me;
      signal?.addEventListener("abort", onAbort, { once: true });
      step ??= run(max, deadline);
    });
  }

  async function run(max: number, deadline: number): Promise<void> {
    try {
      const arrived = await next(max, deadline);
      step = undefined;
      const wanted = taker ? Math.min(taker.max, arrived.length) : 0;
      if (wanted < arrived.length) void handBack(arrived.slice(wanted));
      const deliveries = wanted < arrived.length ? arrived.slice(0, wanted) : arrived;
      const until = serverTime + leaseMs;
      for (const { token } of deliveries) ledger.hold(token, until);
      taker?.deliver(deliveries);
    } catch (error) {
      step = undefined;
      if (isOutage(error)) outOfTouch = true;
      taker?.fail(error);
    }
  }

  /** The next deliveries, at most twice `max`; none if `deadline` passes or it is time to look around again. */
  async function next(max: number, deadline: number): Promise<readonly Delivery[]> {
    try {
      if (outOfTouch) {
        const found = await reclaim(max);
        if (found.length > 0) return found;
      }
      if (clock.monotonic() >= sweepAt) {
        const found = await sweep(max);
        if (found.length > 0) return found;
      }
      const found = await read(max, Math.min(deadline, sweepAt) - clock.monotonic());
      strayed = 0;
      return found;
    } catch (error) {
      if (!isMissingGroup(error)) throw error;
      // A group that cannot be found however often it is made must not keep this loop busy.
      if (++strayed > 3) {
        throw new MillstreamError("UNAVAILABLE", `Cannot find group "${group}" in "${topic}"`, {
          cause: error,
        });
      }
      await rejoin();
      return [];
    }
  }

  async function read(max: number, blockMs: number): Promise<readonly Delivery[]> {
    // COUNT is per stream. While retries wait, each stream gets half the room, or every other turn where there is one.
    const full = parked >= PARKED_MAX;
    const alone = retriesWaiting && max === 1 && !full;
    if (alone) retriesTurn = !retriesTurn;
    const streams = full
      ? [keys.retry]
      : alone
      ? [retriesTurn ? keys.retry : keys.log]
      : [keys.retry, keys.log];
    const count = retriesWaiting && !full ? Math.max(1, Math.floor(max / 2)) : max;
    const ms = alone ? 0 : Math.min(BLOCK_MS, Math.ceil(blockMs));
    const block = ms > 0 ? ["block", ms] : [];
    const args = [
      "group",
      group,
      consumer,
      "count",
      count,
      ...block,
      "streams",
      ...streams,
      ...streams.map(() => ">"),
    ];
    const reply = await connection.call("xreadgroup", args, { timeoutMs: Math.max(0, ms) + graceMs });
    const found = (reply ?? []) as ReadonlyArray<readonly [stream: string, entries: readonly RawEntry[]]>;
    if (streams[0] === keys.retry) retriesWaiting = found.some(([stream]) => stream === keys.retry);
    const deliveries: Delivery[] = [];
    for (const [stream, entries] of found) {
      const kind: StreamKind = stream === keys.retry ? 1 : 0;
      for (const entry of kind === 1 ? entries : await admitted(entries)) {
        deliveries.push(toDelivery(member, kind, entry, 1));
      }
    }
    return deliveries;
  }

  /** Those that need not wait for an earlier message of their key. */
  async function admitted(entries: readonly RawEntry[]): Promise<readonly RawEntry[]> {
    // What has no key, and most have none, is not looked at any further: its header ends with the tab before the key.
    if (entries.every(([, [header]]) => header?.endsWith("\t"))) return entries;
    const waiting = new Set<RawEntry>();
    for (let from = 0; from < entries.length; from += PER_CALL) {
      const part = entries.slice(from, from + PER_CALL);
      const keyed: RawEntry[] = [];
      const args: string[] = [];
      for (const entry of part) {
        const key = laneKey(entry[1][0] ?? "");
        if (key === undefined) continue;
        keyed.push(entry);
        args.push(key, entry[0]);
      }
      if (keyed.length === 0) continue;
      const ends = [part[0]?.[0] ?? "", part[part.length - 1]?.[0] ?? ""];
      const reply = await runScript(ADMIT, lanes, [group, consumer, ...ends, ...args]);
      const [behind, refused] = reply as unknown as readonly [number, readonly number[]];
      parked = behind;
      for (const place of refused) {
        const entry = keyed[place];
        if (entry) waiting.add(entry);
      }
    }
    return waiting.size === 0 ? entries : entries.filter((entry) => !waiting.has(entry));
  }

  async function sweep(max: number): Promise<readonly Delivery[]> {
    const note = clock.monotonic() >= noteAt;
    const names = [...lanes, keys.delayed, keys.delayedIds, keys.later];
    const reply = await runScript(SWEEP, names, [group, consumer, max, leaseMs, note ? 1 : 0]);
    const [now, wakeMs, behind, lost, taken] = reply as unknown as SweepReply;
    if (note) {
      noteAt = clock.monotonic() + NOTE_MS;
      ledger.expire(now - leaseMs);
    }
    serverTime = now;
    parked = behind;
    sweepAt = clock.monotonic() + (wakeMs < 0 ? sweepMs : Math.min(sweepMs, wakeMs + 1));
    return claimed(lost, taken);
  }

  async function reclaim(max: number): Promise<readonly Delivery[]> {
    const places = ledger.held().map(placeOf);
    const idsIn = (kind: StreamKind): string[] =>
      places.filter((place) => place.kind === kind).map((place) => place.entryId);
    const logIds = idsIn(0);
    const args = [group, consumer, max, logIds.length, ...logIds, ...idsIn(1)];
    const reply = await runScript(RECLAIM, lanes, args);
    const [now, lost, taken] = reply as unknown as ReclaimReply;
    serverTime = now;
    outOfTouch = taken.length >= max;
    return claimed(lost, taken);
  }

  function claimed(lost: readonly string[], taken: readonly ClaimedEntry[]): readonly Delivery[] {
    if (lost.length > 0) {
      const detail = `entries ${lost.slice(0, 10).join(", ")} were deleted before they were settled`;
      observe({ kind: "data-loss-suspected", what: `${topic}/${group}`, detail });
    }
    return taken.map(([kind, entryId, count, fields]) => toDelivery(member, kind, [entryId, fields], count));
  }

  function runScript(
    script: RedisScript,
    names: readonly string[],
    args: readonly (string | number)[],
  ): Promise<RedisReply> {
    return connection.script(script, names, args, { timeoutMs: graceMs });
  }

  async function close(): Promise<void> {
    if (closed) return;
    closed = true;
    taker?.deliver([]);
    await connection[Symbol.asyncDispose]();
    await step;
  }

  return {
    take(max, options) {
      if (!closed) return take(max, options);
      return Promise.reject(
        new MillstreamError("CLOSED", `Cannot pull from "${topic}": the subscription was closed`),
      );
    },
    close,
  };
}

interface Taker {
  readonly max: number;
  deliver(deliveries: readonly Delivery[]): void;
  fail(error: unknown): void;
}

type ClaimedEntry = readonly [kind: StreamKind, entryId: string, count: number, fields: readonly string[]];
type SweepReply = readonly [
  now: number,
  wakeMs: number,
  parked: number,
  lost: readonly string[],
  taken: readonly ClaimedEntry[],
];
type ReclaimReply = readonly [now: number, lost: readonly string[], taken: readonly ClaimedEntry[]];
