/**
 * The consumer: takes deliveries of one group from the broker, has them handled, and settles each one.
 *
 * Stages of a delivery: decode → inbox → schema → timeout → handler → acknowledge, or retry, or dead letter. The order
 * is fixed, because getting it wrong loses messages (ThreeDotsLabs/watermill issues 580 and 645).
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { Observer } from "../core/observer.ts";
import type { Broker, Subscription } from "../ports/broker.ts";
import type { ResolvedConsumerOptions } from "./consumer_options.ts";
import { afterFailure, crashed, givenUp, timedOut } from "./failures.ts";
import { type Attempt, emptyHand, type InHand, runs } from "./in_hand.ts";
import { keyLanes } from "./key_lanes.ts";
import { type LoopHealth, startLoop } from "./loop.ts";
import { settlements } from "./settlements.ts";
import { suspectLine } from "./suspects.ts";
import { circuitBreaker, rateLimiter } from "./throttle.ts";

/** Handles one delivery: returns, or resolves, when that is done; throws, or rejects, when it failed. */
export type HandleOne = (attempt: Attempt) => void | Promise<void>;

/** What a consumer works with. */
export interface ConsumerParts {
  readonly broker: Broker;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly random: () => number;
}

/** A running consumer. */
export interface Consumer {
  readonly topic: string;
  readonly group: string;
  health(): readonly LoopHealth[];
  /** Takes nothing more until resumed, and hands back what was not begun. */
  pause(): void;
  resume(): void;
  /** Takes nothing more, waits up to `graceMs` for what was begun, aborts what is left and hands the rest back. */
  stop(graceMs: number): Promise<void>;
}

const PULL_WAIT_MS = 2_000;
/** Where handlers are quick, so much work is taken ahead: in milliseconds, and at most so many messages. */
const AHEAD_MS = 20;
const MAX_AHEAD = 128;
/** With all slots taken and a handler that takes longer than this, nothing more is taken ahead, whatever was usual. */
const SLOW_MS = 1_000;

/** Joins `group` on `topic` and handles what it gets until stopped. */
export function startConsumer(
  parts: ConsumerParts,
  target: { readonly topic: string; readonly group: string },
  options: ResolvedConsumerOptions,
  handle: HandleOne,
): Consumer {
  const { broker, clock, observer } = parts;
  const { concurrency, crashes } = options;
  const topic = checkName("topic", target.topic);
  const group = checkName("group", target.group);
  const name = `${topic}/${group}`;
  const hand = emptyHand(ended);
  const running = runs(clock, options.timeoutMs, (entry) => {
    hand.abort(entry, timedOut(entry.delivery, options.timeoutMs));
  });
  // A broker that keeps keys apart in the whole group leaves nothing to keep apart here.
  const lanes = broker.features.keyOrder ? undefined : keyLanes<InHand>();
  const limiter = options.rate && rateLimiter(clock, options.rate);
  const breaker = options.breaker && circuitBreaker(clock, options.breaker);
  const settling = settlements(observer, () => subscription!, (delivery) => {
    hand.remove(delivery);
    changed?.();
  });
  const waiting: InHand[] = [];
  const endings: Array<() => void> = [];
  let subscription: Subscription | undefined;
  let changed: (() => void) | undefined;
  let pumping = false;
  let alone = false;
  let paused = false;
  let draining = false;
  /** How long a handler takes, in milliseconds: a moving average. Unknown counts as long. */
  let usualMs = Infinity;

  const pulling = startLoop(
    { name: `consumer ${name}`, clock, observer, periodMs: PULL_WAIT_MS * 2 },
    async (signal, beat) => {
      subscription ??= await broker.subscribe(topic, group, { from: options.from, leaseMs: options.leaseMs });
      const room = await waitForRoom(signal, beat);
      if (room <= 0) return 0;
      const deliveries = await subscription.pull(room, { waitMs: PULL_WAIT_MS, signal });
      limiter?.took(deliveries.length);
      const now = clock.monotonic();
      for (const delivery of deliveries) accept(hand.add(delivery, now));
      pump();
      return 0;
    },
  );

  const heartbeat = startLoop(
    { name: `heartbeat ${name}`, clock, observer, periodMs: options.leaseMs / 3 },
    async () => {
      handBackOld();
      const alive = hand.all();
      if (subscription && alive.length > 0) {
        for (const lost of await subscription.extend(alive)) {
          if (hand.lose(lost)) observer({ kind: "lease-lost", what: name, id: lost.id });
        }
      }
      return options.leaseMs / 3;
    },
  );

  // ---- Taking: no more than can be handled soon ---------------------------------------------------------------------

  /** Waits until there is room for more deliveries: back-pressure. */
  async function waitForRoom(signal: AbortSignal, beat: () => void): Promise<number> {
    for (;;) {
      if (signal.aborted) return 0;
      const room = roomLeft();
      if (room > 0) return room;
      await nextChange(Math.min(1_000, breaker?.waitMs || Infinity, limiter?.waitMs || Infinity), signal);
      beat();
    }
  }

  function roomLeft(): number {
    if (paused || draining) return 0;
    if (breaker?.isOpen) return breaker.waitMs > 0 || hand.size > 0 ? 0 : 1; // one message finds out
    const isSlow = running.size >= concurrency && clock.monotonic() - running.oldestAt > SLOW_MS;
    const ahead = limiter || isSlow ? 0 : Math.min(MAX_AHEAD, Math.floor(concurrency * AHEAD_MS / usualMs));
    const room = concurrency + ahead - running.size - waiting.length - suspects.size - (lanes?.size ?? 0);
    // Acknowledgements under way do not hold up the next pull, but they are not unlimited either.
    const unsettled = concurrency * 4 + ahead * 2 - hand.size;
    return Math.min(room, unsettled, limiter?.allowance() ?? Infinity);
  }

  function nextChange(ms: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        cancel();
        changed = undefined;
        signal.removeEventListener("abort", done);
        resolve();
      };
      const cancel = clock.after(ms, done);
      changed = done;
      signal.addEventListener("abort", done, { once: true });
      if (signal.aborted) done();
    });
  }

  // ---- Handling -----------------------------------------------------------------------------------------------------

  function accept(entry: InHand): void {
    const { key } = entry.delivery;
    if (draining || paused) settling.add({ kind: "release", delivery: entry.delivery });
    else if (key === undefined || !lanes || lanes.enter(key, entry)) line(entry);
  }

  /** It is its turn, as far as its key is concerned. */
  function line(entry: InHand): void {
    if (entry.delivery.redelivered && broker.features.countsStarts) {
      suspects.add(entry);
    } else waiting.push(entry);
  }

  function pump(): void {
    if (pumping) return; // a handler that ended at once: the loop below goes on
    pumping = true;
    while (waiting.length > 0 && !alone && running.size < concurrency) begin(waiting.shift()!);
    pumping = false;
  }

  function begin(entry: InHand): void {
    if (entry.reason) return ended(entry, entry.reason);
    entry.beganAt = clock.monotonic();
    let handling: void | Promise<void>;
    try {
      handling = handle(entry);
    } catch (thrown) {
      return ended(entry, toError(thrown));
    }
    if (!(handling instanceof Promise)) return ended(entry, undefined);
    entry.isRunning = true;
    running.add(entry);
    handling.then(() => ended(entry, undefined), (thrown) => ended(entry, toError(thrown)));
  }

  /** The first end counts: a handler that goes on after it was aborted is left behind. */
  function ended(entry: InHand, failure: Error | undefined): void {
    if (entry.isEnded) return;
    entry.isEnded = true;
    if (entry.isRunning) running.remove(entry);
    entry.isRunning = false;
    settle(entry, failure);
    const tookMs = clock.monotonic() - entry.beganAt;
    usualMs = usualMs === Infinity ? tookMs : usualMs + (tookMs - usualMs) / 16;
    const { key } = entry.delivery;
    const next = key === undefined ? undefined : lanes?.leave(key);
    if (next) line(next);
    entry.onEnded?.();
    wakeAll();
    pump();
  }

  function settle(entry: InHand, failure: Error | undefined): void {
    const { delivery } = entry;
    if (failure === undefined) {
      if (breaker?.isOpen) observer({ kind: "resumed", topic, group });
      breaker?.succeeded();
      return settling.add({ kind: "ack", delivery });
    }
    // A shutdown or a lost lease is not the message's fault.
    if (failure === entry.reason && isMillstreamError(failure, "LEASE_LOST")) return hand.remove(delivery);
    if (failure === entry.reason && isMillstreamError(failure, "ABORTED")) {
      return settling.add({ kind: "release", delivery });
    }
    if (isMillstreamError(failure, "CRASHED")) return settling.add(givenUp(parts, delivery, failure));
    settling.add(afterFailure(parts, options, delivery, failure));
    const wasOpen = breaker?.isOpen;
    if (!breaker?.failed(failure)) return;
    handBackRest();
    if (!wasOpen) observer({ kind: "paused", topic, group, error: failure });
  }

  // ---- Suspects -----------------------------------------------------------------------------------------------------

  const suspects = suspectLine(crashes, {
    begin: ({ delivery }) => subscription!.begin(delivery),
    async run(entry, onItsOwn) {
      alone = onItsOwn;
      while (running.size >= (alone ? 1 : concurrency) && !draining) await oneEnds();
      if (draining) handBack([entry]);
      else {
        await new Promise<void>((resolve) => {
          entry.onEnded = resolve;
          begin(entry);
        });
      }
      alone = false;
      pump();
    },
    lost(entry) {
      const { delivery } = entry;
      if (hand.lose(delivery)) observer({ kind: "lease-lost", what: name, id: delivery.id });
      ended(entry, entry.reason);
    },
    convict: (entry) => ended(entry, crashed(entry.delivery, crashes)),
    failed(entry, thrown) {
      observer({ kind: "loop-failed", loop: `begin ${name}`, error: toError(thrown) });
      handBack([entry]);
    },
    done: wakeAll,
  });

  /** Resolves when something that runs has ended. */
  function oneEnds(): Promise<void> {
    return new Promise((resolve) => void endings.push(resolve));
  }

  // ---- Handing back -------------------------------------------------------------------------------------------------

  function handBack(entries: readonly InHand[]): void {
    for (const entry of entries) {
      entry.isEnded = true;
      settling.add({ kind: "release", delivery: entry.delivery });
    }
  }

  /** All that was not begun. */
  function handBackRest(): void {
    const followers = lanes?.clear() ?? [];
    const first = [...waiting.splice(0), ...suspects.clear()];
    for (const { delivery: { key } } of first) if (key !== undefined) lanes?.leave(key);
    handBack([...first, ...followers]);
  }

  /** Others may have time for what waits here behind slow handlers. */
  function handBackOld(): void {
    const since = clock.monotonic() - options.leaseMs / 3;
    if (lanes || waiting.length === 0 || waiting[0]!.takenAt > since) return;
    const young = waiting.filter(({ takenAt }) => takenAt > since);
    handBack(waiting.splice(0).filter(({ takenAt }) => takenAt <= since));
    waiting.push(...young);
  }

  async function stop(graceMs: number): Promise<void> {
    draining = true;
    handBackRest();
    wakeAll();
    await pulling.stop();
    const cancel = clock.after(
      graceMs,
      () => hand.abortAll(new MillstreamError("ABORTED", "Stopped: the application is closing")),
    );
    while (running.size > 0 || suspects.isBusy) await oneEnds();
    cancel();
    running.close();
    await settling.flush();
    await heartbeat.stop();
    await subscription?.[Symbol.asyncDispose]();
  }

  function wakeAll(): void {
    changed?.();
    if (endings.length > 0) { for (const wake of endings.splice(0)) wake(); }
  }

  return {
    topic,
    group,
    health: () => [pulling.health(), heartbeat.health()],
    pause() {
      if (paused) return;
      paused = true;
      handBackRest();
      observer({ kind: "paused", topic, group });
    },
    resume() {
      if (!paused) return;
      paused = false;
      observer({ kind: "resumed", topic, group });
      changed?.();
    },
    stop,
  };
}
