/**
 * One consumer of a group: receives from its queue no more than it hands out, and settles.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { abortable, aborted, type Clock, sleep } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { Delivery, GroupLag, PullOptions, Subscription } from "../../src/ports/broker.ts";
import type { Failure } from "../../src/ports/dead_letters.ts";
import type { SqsCall } from "./client.ts";
import { fromSqs, type Notes, notesOf, receivesOf, type SqsMessage } from "./message.ts";
import type { GroupAddress } from "./queues.ts";
import { deleteAll, hideAll, receive } from "./receipts.ts";

/** What a subscription works with. */
export interface SubscriptionContext {
  readonly call: SqsCall;
  readonly clock: Clock;
  readonly address: GroupAddress;
  readonly fifo: boolean;
  readonly leaseMs: number;
  /** The longest that one call waits for messages, in milliseconds. */
  readonly pollMs: number;
  /** Messages that were hidden until their time, by SQS's id, for SQS counts them as in flight. */
  readonly hidden: Map<string, number>;
  /** Sends a message to this group again. */
  resend(message: EncodedMessage, notes: Notes, delayMs: number): Promise<void>;
  /** Writes a dead letter. */
  bury(message: EncodedMessage, notes: Notes, failure: Failure): Promise<void>;
  count(): Promise<GroupLag>;
}

interface Held {
  readonly message: EncodedMessage;
  readonly messageId: string;
  readonly notes: Notes;
  readonly redelivered: boolean;
  readonly handle: string;
  until: number;
}

/** SQS hides a message for 12 hours at most. */
const MAX_HIDE_MS = 43_200_000;
/** Between two looks where a wait is shorter than SQS can wait. */
const LOOK_MS = 50;
const MAX_DELAY_MS = 366 * 86_400_000;
const REMEMBERED = 10_000;

/** Becomes a consumer. Does no I/O. */
export function createSubscription(context: SubscriptionContext): Subscription {
  const { call, clock, address, fifo, leaseMs, pollMs } = context;
  const { topic, group, queueUrl } = address;
  const leaseS = Math.ceil(leaseMs / 1_000);
  const prefix = crypto.randomUUID();
  const held = new Map<string, Held>();
  const lost = new Set<string>();
  const left: Held[] = []; // received for a pull that had ended
  const tries = new Map<string, Notes>(); // FIFO: what SQS cannot say of messages that are retried in their place
  const polls = new Set<Promise<unknown>>();
  const underway = new Set<Promise<unknown>>();
  const stopping = new AbortController();
  let handedOut = 0;
  let closing: Promise<void> | undefined;

  // Taking messages

  async function pull(max: number, { waitMs, signal }: PullOptions): Promise<readonly Delivery[]> {
    checkOpen("pull");
    checkRange("max", max, 1, 1_000_000, true);
    checkRange("waitMs", waitMs, 0, 86_400_000);
    if (signal?.aborted) throw aborted(signal);
    const end = clock.monotonic() + waitMs;
    for (;;) {
      const deliveries = handOut(left.splice(0, max));
      if (deliveries.length > 0) return deliveries;
      const waitS = Math.floor(Math.min(end - clock.monotonic(), pollMs) / 1_000);
      const taken = await untilStopped(poll(max, Math.max(0, waitS)), signal);
      if (taken.length > 0) return handOut(taken);
      const rest = end - clock.monotonic();
      if (rest <= 0 || closing) return [];
      if (waitS < 1) await untilStopped(sleep(clock, Math.min(LOOK_MS, rest)), signal);
    }
  }

  /** What comes when nobody waits any more is kept for the next pull: it would be hidden for a whole lease. */
  function untilStopped<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
    const both = signal ? AbortSignal.any([signal, stopping.signal]) : stopping.signal;
    const keep = (): void => {
      work.then((taken) => {
        if (Array.isArray(taken)) left.push(...taken as Held[]);
      }).catch(() => {});
    };
    return abortable(work, both).catch((error) => {
      if (!both.aborted) throw error;
      keep();
      checkOpen("pull");
      throw error;
    });
  }

  async function poll(max: number, waitS: number): Promise<Held[]> {
    const receiving = receiveUpTo(max, waitS);
    polls.add(receiving);
    try {
      return await receiving;
    } finally {
      polls.delete(receiving);
    }
  }

  /**
   * FIFO hands out several messages of one key at once, and only one may be out: there each call asks for one. The first
   * call waits, those that follow take what else is there.
   */
  async function receiveUpTo(max: number, waitS: number): Promise<Held[]> {
    const taken: Held[] = [];
    const each = fifo ? 1 : 10;
    for (let calls = 1, wait = waitS; taken.length < max; wait = 0) {
      const left = max - taken.length;
      const batches = await Promise.all(
        Array.from(
          { length: calls },
          () => receive(call, queueUrl, { max: Math.min(each, left), leaseS, waitS: wait }),
        ),
      );
      const until = clock.monotonic() + leaseS * 1_000;
      for (const message of batches.flat()) if (!await isEarly(message)) taken.push(toHeld(message, until));
      if (batches.some((batch) => batch.length < Math.min(each, left))) break;
      calls = fifo ? Math.min(10, max - taken.length) : 1;
    }
    return taken;
  }

  /** A delay longer than SQS can keep: hidden again. */
  async function isEarly(message: SqsMessage): Promise<boolean> {
    const early = notesOf(message).notBefore - clock.now();
    if (early <= 0) return false;
    await hideAll(call, queueUrl, [message.ReceiptHandle], Math.ceil(Math.min(early, MAX_HIDE_MS) / 1_000));
    context.hidden.set(message.MessageId, clock.now() + early);
    return true;
  }

  function toHeld(message: SqsMessage, until: number): Held {
    const notes = tries.get(message.MessageId) ?? notesOf(message);
    const { MessageId: messageId, ReceiptHandle: handle } = message;
    const hidden = context.hidden.delete(messageId) || notes.notBefore > 0;
    const redelivered = receivesOf(message) > (hidden ? 2 : 1) && !tries.has(messageId);
    return { message: fromSqs(message), messageId, notes, handle, until, redelivered };
  }

  function handOut(items: readonly Held[]): readonly Delivery[] {
    forgetOld();
    const now = clock.monotonic();
    return items.filter(({ until }) => until > now).map((item) => {
      const token = `${prefix}-${++handedOut}`;
      held.set(token, item);
      const { message, notes: { attempt }, redelivered } = item;
      return { ...message, topic, group, attempt, redelivered, token };
    });
  }

  function forgetOld(): void {
    if (held.size < 1_000) return;
    const now = clock.monotonic();
    for (const [token, { until }] of held) if (until <= now) lose(token);
  }

  // Settling

  /** The lease of a delivery, if it still is one. SQS would let a former owner delete: this clock does not. */
  function leaseOf({ token }: Delivery): Held | undefined {
    const item = held.get(token);
    if (!item) return undefined;
    if (item.until > clock.monotonic()) return item;
    lose(token);
    return undefined;
  }

  function lose(token: string): void {
    held.delete(token);
    if (lost.size >= REMEMBERED) {
      for (const oldest of lost) {
        lost.delete(oldest);
        break;
      }
    }
    lost.add(token);
  }

  function isLost({ token }: Delivery): boolean {
    return lost.has(token) || !token.startsWith(`${prefix}-`);
  }

  /** Deletes what is still held. What fails stays held. */
  async function remove(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const tokens = new Map<string, Delivery>();
    for (const delivery of deliveries) {
      const item = leaseOf(delivery);
      if (item) tokens.set(item.handle, delivery);
    }
    const stale = await deleteAll(call, queueUrl, [...tokens.keys()]);
    for (const [handle, { token }] of tokens) {
      const item = held.get(token);
      if (item) tries.delete(item.messageId);
      if (stale.has(handle)) lose(token);
      else held.delete(token);
    }
    return deliveries.filter(isLost);
  }

  async function retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    const item = leaseOf(delivery);
    if (!item) return !isLost(delivery);
    const { notes, message } = item;
    const next = { ...notes, attempt: notes.attempt + 1, firstFailedAt: notes.firstFailedAt || failure.at };
    if (isOrdered(item) || (fifo && delayMs > 0)) return await putBack(delivery, item, next, delayMs);
    await context.resend(message, next, delayMs); // first this: a crash in between repeats the message and loses nothing
    return (await remove([delivery])).length === 0;
  }

  /** A copy would go behind its followers. */
  function isOrdered({ message }: Held): boolean {
    return fifo && message.key !== undefined;
  }

  /** FIFO: in its place, so that its key waits for it. */
  async function putBack(delivery: Delivery, item: Held, notes: Notes, delayMs: number): Promise<boolean> {
    if (tries.size >= REMEMBERED) {
      for (const oldest of tries.keys()) {
        tries.delete(oldest);
        break;
      }
    }
    tries.set(item.messageId, notes);
    const seconds = Math.ceil(Math.min(delayMs, MAX_HIDE_MS) / 1_000);
    const stale = await hideAll(call, queueUrl, [item.handle], seconds);
    if (stale.size > 0) lose(delivery.token);
    else held.delete(delivery.token);
    if (stale.size === 0 && seconds > 0) context.hidden.set(item.messageId, clock.now() + delayMs);
    return stale.size === 0;
  }

  async function release(deliveries: readonly Delivery[]): Promise<void> {
    await Promise.all(deliveries.map(async (delivery) => {
      const item = leaseOf(delivery);
      if (!item) return;
      if (isOrdered(item)) return void await putBack(delivery, item, item.notes, 0);
      // As a copy: SQS would count the hand-out, which nobody began to work on.
      await context.resend(item.message, item.notes, 0);
      await remove([delivery]);
    }));
  }

  async function deadLetter(delivery: Delivery, failure: Failure): Promise<boolean> {
    const item = leaseOf(delivery);
    if (!item) return !isLost(delivery);
    await context.bury(item.message, item.notes, failure);
    return (await remove([delivery])).length === 0;
  }

  async function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const items = new Map<string, Delivery>();
    for (const delivery of deliveries) {
      const item = leaseOf(delivery);
      if (item) items.set(item.handle, delivery);
    }
    const until = clock.monotonic() + leaseS * 1_000;
    const stale = await hideAll(call, queueUrl, [...items.keys()], leaseS);
    for (const [handle, { token }] of items) {
      const item = held.get(token);
      if (stale.has(handle)) lose(token);
      else if (item) item.until = until;
    }
    return deliveries.filter(isLost);
  }

  async function close(): Promise<void> {
    stopping.abort();
    await Promise.allSettled(underway);
    await Promise.allSettled(polls);
    await Promise.resolve(); // what the polls took is in `left` now
    const now = clock.monotonic();
    const handles = [...left.splice(0), ...held.values()].filter(({ until }) => until > now).map((
      { handle },
    ) => handle);
    held.clear();
    await hideAll(call, queueUrl, handles, 0).catch(() => {}); // their lease brings them back
  }

  function checkOpen(what: string): void {
    if (!closing) return;
    throw new MillstreamError("CLOSED", `Cannot ${what} in "${topic}/${group}": the subscription was closed`);
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
    }
  }

  const subscription: Subscription = {
    topic,
    group,
    pull,
    ack: (deliveries) => during("ack", () => remove(deliveries)),
    retry: (delivery, delayMs, failure) => during("retry", () => retry(delivery, delayMs, failure)),
    deadLetter: (delivery, failure) => during("dead-letter", () => deadLetter(delivery, failure)),
    // deno-lint-ignore require-await -- rejects instead of throwing
    begin: (delivery) => during("begin", async () => leaseOf(delivery) ? 1 : undefined),
    extend: (deliveries) => during("extend", () => extend(deliveries)),
    release: (deliveries) => during("release", () => release(deliveries)),
    lag: () => during("count", context.count),
    [Symbol.asyncDispose]: () => closing ??= Promise.resolve().then(close),
  };
  return subscription;
}
