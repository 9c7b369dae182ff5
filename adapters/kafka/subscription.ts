/**
 * One consumer of a group: joins when it is asked for messages, leaves when it is not.
 *
 * Kafka gives whole partitions to members, so what a member has not handed out nobody else can get. Therefore a
 * consumer is a member only while it pulls or holds deliveries. A rebalance leaves partitions with deliveries where
 * they are (`balance.ts`), and what is settled out of order, tried or delayed travels with the commits (`progress.ts`).
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { aborted, type Clock, sleep } from "../../src/core/clock.ts";
import { MillstreamError, toError } from "../../src/core/errors.ts";
import type { Observer } from "../../src/core/observer.ts";
import type { Delivery, GroupLag, PullOptions, Subscription } from "../../src/ports/broker.ts";
import type { Failure } from "../../src/ports/dead_letters.ts";
import { createBacklog, isDelayed } from "./backlog.ts";
import { isStarved, surplus } from "./balance.ts";
import {
  type KafkaDriver,
  type KafkaRecord,
  type Member,
  partitionKey,
  type TopicPartition,
} from "./driver.ts";
import type { GroupNames } from "./names.ts";
import { commitOf, inherit, isNew, type Item, newPartition, type Partition } from "./partition.ts";
import { decodeProgress } from "./progress.ts";
import { fromRecord, notesOf } from "./record.ts";

/** What a subscription works with. */
export interface SubscriptionContext {
  readonly driver: KafkaDriver;
  readonly clock: Clock;
  readonly observe: Observer;
  readonly timeoutMs: number;
  readonly sessionTimeoutMs: number;
  readonly rebalanceTimeoutMs: number;
  readonly fetchWaitMs: number;
  readonly idleMs: number;
  readonly names: GroupNames;
  readonly leaseMs: number;
  /** Writes the dead letter of an item. */
  bury(item: Item, failure: Failure): Promise<void>;
  /** How the group stands. Own partitions are counted as they are here. */
  count(own: ReadonlyMap<string, Partition>): Promise<GroupLag>;
}

/** Read and not handed out, at most about this many messages and characters. */
const MAX_BUFFERED = 2_000;
const MAX_CHARACTERS = 16_000_000;
/** A hand-out is noted in the group's progress after this long, if no settlement does it first. */
const NOTE_MS = 250;
/** How long a starved member waits for others to let go. */
const DRAIN_MS = 1_000;
const MAX_DELAY_MS = 366 * 86_400_000;

interface Held {
  readonly item: Item;
  readonly token: string;
  until: number;
}

/** Becomes a consumer. Does no I/O. */
export function createSubscription(context: SubscriptionContext): Subscription {
  const { driver, clock, names, leaseMs, timeoutMs } = context;
  const topics = [names.topic, names.redriven];
  const prefix = crypto.randomUUID();
  const partitions = new Map<string, Partition>(); // own ones
  const held = new Map<string, Held>(); // by token; the first to run out first
  const lost = new Set<string>();
  const waiters = new Set<() => void>();
  const underway = new Set<Promise<unknown>>();
  const backlog = createBacklog(clock, wake);
  let membership: Promise<Member> | undefined;
  let member: Member | undefined;
  let memberId: string | undefined;
  let leaving: Promise<void> | undefined;
  let draining: ReadonlySet<number> = new Set();
  let characters = 0;
  let paused = false;
  let pulls = 0;
  let handedOut = 0;
  let cancelExpiry: (() => void) | undefined;
  let cancelIdle: (() => void) | undefined;
  let cancelNote: (() => void) | undefined;
  let committing: Promise<void> | undefined;
  let closing: Promise<void> | undefined;

  // Taking messages

  async function pull(max: number, { waitMs, signal }: PullOptions): Promise<readonly Delivery[]> {
    checkOpen("pull");
    checkRange("max", max, 1, 1_000_000, true);
    checkRange("waitMs", waitMs, 0, 86_400_000);
    if (signal?.aborted) throw aborted(signal);
    const end = clock.monotonic() + waitMs;
    pulls++;
    cancelIdle?.();
    let failure: unknown;
    const failed = (error: unknown): void => {
      failure = error;
      wake();
    };
    try {
      for (;;) {
        join().catch(failed);
        const deliveries = handOut(max);
        if (deliveries.length > 0) return deliveries;
        if (failure !== undefined) throw failure;
        const left = end - clock.monotonic();
        if (left <= 0) return [];
        await woken(left, signal);
        checkOpen("pull");
      }
    } finally {
      pulls--;
      restIfIdle();
    }
  }

  function woken(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        cancel();
        waiters.delete(done);
        signal?.removeEventListener("abort", onAbort);
        resolve();
      };
      const onAbort = (): void => {
        reject(aborted(signal));
        done();
      };
      const cancel = clock.after(ms, done);
      waiters.add(done);
      signal?.addEventListener("abort", onAbort, { once: true });
      if (signal?.aborted) onAbort();
    });
  }

  function wake(): void {
    for (const waiter of [...waiters]) waiter();
  }

  function handOut(max: number): Delivery[] {
    if (leaving || closing) return [];
    const until = clock.monotonic() + leaseMs;
    const kept: Item[] = [];
    const deliveries: Delivery[] = [];
    for (const item of backlog.take(max)) {
      if (draining.has(item.partition.partition)) {
        kept.push(item);
        continue;
      }
      const token = `${prefix}-${++handedOut}`;
      held.set(token, { item, token, until });
      const { message, attempt, seen: redelivered, partition, offset } = item;
      item.seen = true;
      partition.out++;
      partition.high = Math.max(partition.high, offset + 1);
      partition.dirty = true;
      deliveries.push({ ...message, topic: names.topic, group: names.group, attempt, redelivered, token });
    }
    for (const item of kept) backlog.back(item);
    if (deliveries.length > 0) noteSoon();
    watchLeases();
    relieve();
    return deliveries;
  }

  function watchLeases(): void {
    if (cancelExpiry || held.size === 0) return;
    const [next] = held.values();
    cancelExpiry = clock.after(Math.max(0, next!.until - clock.monotonic()), () => {
      cancelExpiry = undefined;
      expire();
      watchLeases();
    });
  }

  /** What ran out comes again: here if somebody pulls, else to whoever gets the partition. */
  function expire(): void {
    const now = clock.monotonic();
    for (const { item, token, until } of [...held.values()]) {
      if (until > now) break;
      loseToken(token);
      item.partition.out--;
      backlog.back(item);
    }
    wake();
    if (pulls === 0 && held.size === 0) void rest();
  }

  // Membership

  function join(): Promise<unknown> {
    return membership ??= joinNow();
  }

  async function joinNow(): Promise<Member> {
    await leaving;
    try {
      const joined = await driver.join({
        group: names.groupId,
        topics,
        sessionTimeoutMs: context.sessionTimeoutMs,
        rebalanceTimeoutMs: context.rebalanceTimeoutMs,
        fetchWaitMs: context.fetchWaitMs,
        claims,
        onAssigned,
        onRecords,
        onLost,
      });
      member = joined;
      if (paused) joined.pause();
      if (pulls === 0) restIfIdle();
      return joined;
    } catch (error) {
      membership = undefined;
      forgetAll();
      throw error;
    }
  }

  /** Busy partitions are kept through a rebalance. All others are let go, and read again by who gets them. */
  function claims(): readonly number[] {
    const busy = new Set<number>();
    for (const { partition, out, dirty, committing } of partitions.values()) {
      if (out > 0 || dirty || committing) busy.add(partition);
    }
    forget((partition) => !busy.has(partition.partition));
    return [...busy];
  }

  function onAssigned(id: string, numbers: readonly number[]): void {
    if (memberId !== undefined && memberId !== id) forgetAll(); // expelled: others had the partitions meanwhile
    memberId = id;
    draining = new Set();
    const own = new Set(numbers);
    forget((partition) => !own.has(partition.partition));
    const places = topics.flatMap((topic) => numbers.map((partition) => ({ topic, partition })));
    const fresh = places.filter((place) => !partitions.has(partitionKey(place)));
    if (fresh.length > 0) {
      const loaded = load(fresh);
      for (const place of fresh) partitions.set(partitionKey(place), newPartition(place, loaded));
    }
    void evenOut(id, numbers);
  }

  async function load(places: readonly TopicPartition[]): Promise<void> {
    await Promise.resolve(); // they are not in the table yet
    const own = places.map((place) => partitions.get(partitionKey(place)));
    try {
      for (const { offset, metadata, ...place } of await driver.committed(names.groupId, topics)) {
        const partition = own.find((candidate) =>
          candidate?.topic === place.topic && candidate.partition === place.partition
        );
        if (partition) inherit(partition, decodeProgress(offset, metadata));
      }
    } catch (error) {
      onLost(toError(error));
    }
  }

  /** A rebalance that kept busy partitions in place may have been unfair. Who has too many stops using some; who has too few asks again. */
  async function evenOut(id: string, numbers: readonly number[]): Promise<void> {
    try {
      const count = await driver.partitionCount(names.topic);
      const members = await driver.memberCount(names.groupId);
      if (memberId !== id || members < 2) return;
      const extra = surplus(numbers.length, count, members);
      draining = new Set(extra > 0 ? numbers.slice(-extra) : []);
      await sleep(clock, extra > 0 ? 2 * DRAIN_MS : DRAIN_MS);
      if (memberId !== id) return;
      if (isStarved(numbers.length, count, members) && held.size === 0) return await rest(); // a pull that waits joins again
      draining = new Set(); // nobody asked for them
      wake();
    } catch {
      // No harm done: the next rebalance tries again.
    }
  }

  async function onRecords(place: TopicPartition, records: readonly KafkaRecord[]): Promise<void> {
    const partition = partitions.get(partitionKey(place));
    if (!partition) return;
    await partition.loaded;
    if (partition.gone) return;
    const items: Item[] = [];
    for (const record of records) {
      if (isNew(partition, record.offset)) items.push(receive(partition, record));
      partition.next = Math.max(partition.next, record.offset + 1);
    }
    // What was delayed and is due by now comes in the order of its time.
    for (const item of items) if (!isDelayed(item)) backlog.add(item);
    for (const item of items.filter(isDelayed).sort((a, b) => a.notBefore - b.notBefore)) backlog.add(item);
    if (!paused && (backlog.ready + backlog.waiting > MAX_BUFFERED || characters > MAX_CHARACTERS)) {
      paused = true;
      member?.pause();
    }
    wake();
  }

  function receive(partition: Partition, record: KafkaRecord): Item {
    const { offset } = record;
    const message = fromRecord(record);
    const { notBefore, redrives } = notesOf(record);
    const known = partition.inherited.get(offset);
    partition.inherited.delete(offset);
    const { attempt = 1, seen = false, firstFailedAt = 0 } = known ?? {};
    const item: Item = {
      partition,
      offset,
      message,
      redrives,
      attempt,
      seen,
      firstFailedAt,
      notBefore: known?.notBefore || notBefore,
    };
    partition.unsettled.set(offset, item);
    characters += message.body.length;
    return item;
  }

  /** Goes on fetching when half of what was buffered is gone. */
  function relieve(): void {
    if (!paused || backlog.ready + backlog.waiting > MAX_BUFFERED / 2 || characters > MAX_CHARACTERS / 2) {
      return;
    }
    paused = false;
    member?.resume();
  }

  function onLost(error: Error): void {
    membership = undefined;
    const former = member;
    member = undefined;
    memberId = undefined;
    forgetAll();
    context.observe({ kind: "loop-failed", loop: `kafka ${names.groupId}`, error });
    void former?.leave();
    wake(); // a pull that waits joins again
  }

  function forgetAll(): void {
    forget(() => true);
  }

  function forget(which: (partition: Partition) => boolean): void {
    let some = false;
    for (const [name, partition] of partitions) {
      if (!which(partition)) continue;
      some = partition.gone = true;
      partitions.delete(name);
      for (const { message } of partition.unsettled.values()) characters -= message.body.length;
    }
    if (!some) return;
    backlog.dropGone();
    for (const { item, token } of [...held.values()]) if (item.partition.gone) loseToken(token);
    relieve();
  }

  function loseToken(token: string): void {
    held.delete(token);
    if (lost.size >= 10_000) {
      for (const oldest of lost) {
        lost.delete(oldest);
        break;
      }
    }
    lost.add(token);
  }

  function restIfIdle(): void {
    cancelIdle?.();
    cancelIdle = undefined;
    if (pulls > 0 || held.size > 0 || !membership || closing) return;
    cancelIdle = clock.after(context.idleMs, () => void rest());
  }

  /** Leaves the group until somebody pulls. */
  function rest(): Promise<void> {
    return leaving ??= leave().finally(() => {
      leaving = undefined;
      wake();
    });
  }

  async function leave(): Promise<void> {
    const current = await membership?.catch(() => undefined);
    if (current) await commit().catch(() => {}); // what is not noted is seen as new by the next owner
    membership = undefined;
    member = undefined;
    memberId = undefined;
    forgetAll();
    await current?.leave();
  }

  // Settling

  /** Takes a delivery out of the consumer's hands; `undefined` if it is not in them. */
  function take({ token }: Delivery): Item | undefined {
    const item = held.get(token)?.item;
    held.delete(token);
    if (item) item.partition.out--;
    return item;
  }

  function isLost({ token }: Delivery): boolean {
    return lost.has(token) || !token.startsWith(`${prefix}-`);
  }

  function settle(item: Item): void {
    const { partition, offset, message } = item;
    partition.unsettled.delete(offset);
    partition.high = Math.max(partition.high, offset + 1);
    partition.dirty = true;
    characters -= message.body.length;
    backlog.settled(item);
    relieve();
  }

  function noteSoon(): void {
    cancelNote ??= clock.after(NOTE_MS, () => {
      cancelNote = undefined;
      commit().catch(() => {}); // the next settlement tries again
    });
  }

  /** Commits what is dirty. Calls that come while one is under way share the next one. */
  async function commit(): Promise<void> {
    const before = committing;
    if (before) await before.catch(() => {});
    if (committing && committing !== before) return await committing;
    const mine = committing = commitNow();
    await mine.finally(() => {
      if (committing === mine) committing = undefined;
    });
  }

  async function commitNow(): Promise<void> {
    const deadline = clock.monotonic() + timeoutMs;
    for (;;) {
      const dirty = [...partitions.values()].filter((partition) => partition.dirty);
      if (dirty.length === 0) return;
      const offsets = dirty.map(commitOf);
      for (const partition of dirty) {
        partition.dirty = false;
        partition.committing = true;
      }
      try {
        const current = await membership;
        if (!current) return; // all is lost, and the callers find it so
        return await current.commit(offsets);
      } catch (error) {
        for (const partition of dirty) partition.dirty = true;
        if (clock.monotonic() > deadline) throw error;
      } finally {
        for (const partition of dirty) partition.committing = false;
      }
      await sleep(clock, 30); // the group rebalances, or the broker is away
    }
  }

  /** Settles and says which were lost, before or meanwhile. */
  async function settleAll(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const items = new Map<Delivery, Item>();
    for (const delivery of deliveries) {
      const item = take(delivery);
      if (!item) continue;
      items.set(delivery, item);
      settle(item);
    }
    wake();
    if (items.size > 0) await commit();
    return deliveries.filter((delivery) => items.get(delivery)?.partition.gone ?? isLost(delivery));
  }

  async function retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    const item = take(delivery);
    if (!item) return !isLost(delivery);
    item.attempt++;
    item.seen = false;
    item.firstFailedAt ||= failure.at;
    item.notBefore = delayMs > 0 ? clock.now() + Math.ceil(delayMs) : 0;
    item.partition.dirty = true;
    backlog.back(item);
    wake();
    await commit();
    return !item.partition.gone;
  }

  async function deadLetter(delivery: Delivery, failure: Failure): Promise<boolean> {
    const lease = held.get(delivery.token);
    if (!lease) return !isLost(delivery);
    const { item } = lease;
    lease.until = Infinity; // the letter is on its way: nobody else may have the message now
    try {
      await context.bury(item, failure);
    } catch (error) {
      lease.until = clock.monotonic() + leaseMs;
      throw error;
    }
    return (await settleAll([delivery])).length === 0;
  }

  function release(deliveries: readonly Delivery[]): Promise<void> {
    for (const delivery of deliveries) {
      const item = take(delivery);
      if (!item) continue;
      item.seen = false;
      item.partition.dirty = true;
      backlog.back(item);
    }
    wake();
    return Promise.resolve();
  }

  function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const until = clock.monotonic() + leaseMs;
    for (const { token } of deliveries) {
      const lease = held.get(token);
      if (!lease || lease.until === Infinity) continue;
      held.delete(token); // to the end: it runs out last now
      held.set(token, { ...lease, until });
    }
    return Promise.resolve(deliveries.filter(isLost));
  }

  async function close(): Promise<void> {
    cancelExpiry?.();
    cancelIdle?.();
    cancelNote?.();
    wake();
    await Promise.allSettled(underway);
    for (const { item } of held.values()) {
      item.seen = false;
      item.partition.dirty = true;
    }
    await rest();
  }

  function checkOpen(what: string): void {
    if (!closing) return;
    throw new MillstreamError("CLOSED", `Cannot ${what} in "${names.groupId}": the subscription was closed`);
  }

  /** Runs a call unless the subscription was closed, and lets closing wait for it. */
  async function during<T>(what: string, work: () => Promise<T>): Promise<T> {
    checkOpen(what);
    const running = work();
    underway.add(running);
    try {
      return await running;
    } finally {
      underway.delete(running);
      restIfIdle();
    }
  }

  const subscription: Subscription = {
    topic: names.topic,
    group: names.group,
    pull,
    ack: (deliveries) => during("ack", () => settleAll(deliveries)),
    retry: (delivery, delayMs, failure) => during("retry", () => retry(delivery, delayMs, failure)),
    deadLetter: (delivery, failure) => during("dead-letter", () => deadLetter(delivery, failure)),
    // deno-lint-ignore require-await -- rejects instead of throwing
    begin: (delivery) => during("begin", async () => held.has(delivery.token) ? 1 : undefined),
    extend: (deliveries) => during("extend", () => extend(deliveries)),
    release: (deliveries) => during("release", () => release(deliveries)),
    lag: () => during("count", () => context.count(partitions)),
    [Symbol.asyncDispose]: () => closing ??= Promise.resolve().then(close),
  };
  return subscription;
}
