/**
 * The consumer: takes deliveries of one group from the broker and settles each one.
 *
 * Stages of a delivery: decode → inbox → schema → timeout → handler → acknowledge, or retry, or dead letter. The order
 * is fixed, because getting it wrong loses messages (ThreeDotsLabs/watermill issues 580 and 645).
 *
 * @module
 */
import { checkRange, type RetryPolicy, retryPolicy } from "../core/backoff.ts";
import type { Clock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { keyedExecutor } from "../core/keyed.ts";
import { checkName } from "../core/names.ts";
import type { Observer } from "../core/observer.ts";
import type { Broker, Delivery, StartFrom, Subscription } from "../ports/broker.ts";
import { heldDeliveries, type HeldDelivery } from "./held.ts";
import { type LoopHealth, startLoop } from "./loop.ts";
import { type HandleOne, settle, type Settlement } from "./settle.ts";

/** Options of a consumer group's member. */
export interface ConsumerOptions {
  /** Messages handled at the same time by this process. Messages of one key are never handled at the same time. @default 8 */
  readonly concurrency?: number;
  /** When and how often a failed message is tried again before it becomes a dead letter. */
  readonly retry?: RetryPolicy;
  /** A try that takes longer fails with `HANDLER_TIMEOUT` and its signal aborts, in milliseconds. @default 60_000 */
  readonly timeoutMs?: number;
  /**
   * How long a message stays with a process that says nothing, in milliseconds. A living process says so by itself;
   * after a crash another one takes over when this has passed. @default 15_000
   */
  readonly leaseMs?: number;
  /** Where a new group begins. @default "start" */
  readonly from?: StartFrom;
}

/** {@linkcode ConsumerOptions} with nothing left open. */
export interface ResolvedConsumerOptions {
  readonly concurrency: number;
  readonly retry: Required<RetryPolicy>;
  readonly timeoutMs: number;
  readonly leaseMs: number;
  readonly from: StartFrom;
}

/** Fills in the defaults and refuses values out of range with `INVALID_ARGUMENT`. */
export function consumerOptions(options: ConsumerOptions): ResolvedConsumerOptions {
  const { concurrency = 8, timeoutMs = 60_000, leaseMs = 15_000, from = "start" } = options;
  checkRange("concurrency", concurrency, 1, 10_000, true);
  checkRange("timeoutMs", timeoutMs, 1, 86_400_000);
  checkRange("leaseMs", leaseMs, 100, 86_400_000);
  return { concurrency, retry: retryPolicy(options.retry), timeoutMs, leaseMs, from };
}

/** What a consumer works with. */
export interface ConsumerParts {
  readonly broker: Broker;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly random: () => number;
}

/** A running consumer. */
export interface Consumer {
  health(): readonly LoopHealth[];
  /** Takes nothing more, waits up to `graceMs` for what was started, aborts what is left and hands the rest back. */
  stop(graceMs: number): Promise<void>;
}

const PULL_WAIT_MS = 2_000;

/**
 * Joins `group` on `topic` and handles what it gets until stopped.
 *
 * @param handle Handles one delivery; never rejects, see `settle.ts`.
 */
export function startConsumer(
  parts: ConsumerParts,
  target: { readonly topic: string; readonly group: string },
  options: ResolvedConsumerOptions,
  handle: HandleOne,
): Consumer {
  const { broker, clock, observer } = parts;
  const topic = checkName("topic", target.topic);
  const group = checkName("group", target.group);
  const name = `${topic}/${group}`;
  const executor = keyedExecutor(options.concurrency);
  let subscription: Subscription | undefined;
  let draining = false;

  const held = heldDeliveries();
  const settlements = settlementQueue(observer, () => subscription, held);

  const pulling = startLoop(
    { name: `consumer ${name}`, clock, observer, periodMs: PULL_WAIT_MS * 2 },
    async (signal, beat) => {
      subscription ??= await broker.subscribe(topic, group, { from: options.from, leaseMs: options.leaseMs });
      await freeSlot(signal, beat);
      const free = options.concurrency - executor.size;
      if (free <= 0 || signal.aborted) return 0;
      const deliveries = await subscription.pull(free, { waitMs: PULL_WAIT_MS, signal });
      for (const delivery of deliveries) take(held.add(delivery));
      return 0;
    },
  );

  const heartbeat = startLoop(
    { name: `heartbeat ${name}`, clock, observer, periodMs: options.leaseMs / 3 },
    async () => {
      const alive = held.all();
      if (subscription && alive.length > 0) {
        for (const lost of await subscription.extend(alive)) {
          if (held.lose(lost)) observer({ kind: "lease-lost", what: name, id: lost.id });
        }
      }
      return options.leaseMs / 3;
    },
  );

  /** Waits until fewer than `concurrency` deliveries are in hand: back-pressure. */
  async function freeSlot(signal: AbortSignal, beat: () => void): Promise<void> {
    while (executor.size >= options.concurrency && !signal.aborted) {
      await held.changed(clock, 1_000, signal);
      beat();
    }
  }

  function take(entry: HeldDelivery): void {
    const { delivery } = entry;
    void executor.run(delivery.key, async () => {
      if (draining) return settlements.add({ delivery, kind: "release" });
      if (entry.abort.signal.aborted) return held.remove(delivery);
      settlements.add(await settle(parts, options, handle, entry));
    });
  }

  async function stop(graceMs: number): Promise<void> {
    draining = true;
    await pulling.stop();
    const cancel = clock.after(
      graceMs,
      () => held.abortAll(new MillstreamError("ABORTED", "Stopped: the application is closing")),
    );
    await executor.idle();
    cancel();
    await settlements.flush();
    await heartbeat.stop();
    await subscription?.[Symbol.asyncDispose]();
  }

  return { health: () => [pulling.health(), heartbeat.health()], stop };
}

/** Collects settlements and sends them in batches: one call under way at a time, everything that came meanwhile in the next. */
function settlementQueue(
  observer: Observer,
  current: () => Subscription | undefined,
  held: ReturnType<typeof heldDeliveries>,
): { add(settlement: Settlement): void; flush(): Promise<void> } {
  let waiting: Settlement[] = [];
  let sending: Promise<void> | undefined;

  function add(settlement: Settlement): void {
    waiting.push(settlement);
    // A microtask later, so that handlers ending together are acknowledged together.
    sending ??= Promise.resolve().then(sendAll);
  }

  async function sendAll(): Promise<void> {
    while (waiting.length > 0) {
      const batch = waiting;
      waiting = [];
      const subscription = current();
      if (subscription) await send(subscription, batch);
      for (const { delivery } of batch) held.remove(delivery);
    }
    sending = undefined; // in the same job as the last look: what comes later begins anew
  }

  async function send(subscription: Subscription, batch: readonly Settlement[]): Promise<void> {
    const of = (kind: Settlement["kind"]): Delivery[] =>
      batch.filter((s) => s.kind === kind).map((s) => s.delivery);
    const calls: Array<Promise<readonly Delivery[]>> = [];
    const acks = of("ack");
    if (acks.length > 0) calls.push(subscription.ack(acks));
    const releases = of("release");
    if (releases.length > 0) calls.push(subscription.release(releases).then(() => []));
    for (const settlement of batch) {
      const { delivery } = settlement;
      const refused = (kept: boolean): readonly Delivery[] => kept ? [] : [delivery];
      if (settlement.kind === "retry") {
        calls.push(subscription.retry(delivery, settlement.delayMs, settlement.failure).then(refused));
      }
      if (settlement.kind === "dead") {
        calls.push(subscription.deadLetter(delivery, settlement.failure).then(refused));
      }
    }
    // What could not be settled stays with its lease and comes again: at least once.
    for (const result of await Promise.allSettled(calls)) {
      if (result.status === "rejected") {
        observer({
          kind: "loop-failed",
          loop: `settle ${subscription.topic}/${subscription.group}`,
          error: result.reason as Error,
        });
      } else {
        for (const lost of result.value) {
          observer({ kind: "lease-lost", what: `${subscription.topic}/${subscription.group}`, id: lost.id });
        }
      }
    }
  }

  return {
    add,
    async flush() {
      while (sending) await sending;
    },
  };
}
