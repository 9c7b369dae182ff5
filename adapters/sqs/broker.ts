/**
 * The broker over Amazon SQS.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { type BindingMode, checkBindingMode } from "../../src/core/binding.ts";
import { aborted, type Clock, systemClock } from "../../src/core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import { checkName } from "../../src/core/names.ts";
import type {
  Broker,
  BrokerFeatures,
  GroupStatus,
  PublishOptions,
  SubscribeOptions,
  Subscription,
} from "../../src/ports/broker.ts";
import { closableBroker } from "../../src/ports/closable.ts";
import { checkStartFrom } from "../../src/ports/start_from.ts";
import { type SqsCall, sqsClient, type SqsCredentials, withTimeout } from "./client.ts";
import { countQueue } from "./counts.ts";
import { deadLetterOffice } from "./dead_letters.ts";
import { checkedSize, NO_NOTES, type Notes, type SqsContent, toContent } from "./message.ts";
import { createQueues, type GroupAddress, type SqsRoutes } from "./queues.ts";
import { createSender, type Letter } from "./sender.ts";
import { createSubscription } from "./subscription.ts";

/** Options of {@linkcode sqs}. */
export type SqsOptions = SqsCommonOptions & (SqsUrl | SqsOwnClient);

/** Connects through aws4fetch. */
export interface SqsUrl {
  /** `https://sqs.<region>.amazonaws.com`, another endpoint that speaks the protocol, or either as `sqs://[key:secret@]host`. */
  readonly url: string;
  /** The caller, or a function that says who it is at the moment, such as a provider of the AWS SDK. @default the URL's user */
  readonly credentials?: SqsCredentials | (() => Promise<SqsCredentials>);
  /** @default the one in the URL */
  readonly region?: string;
  readonly call?: undefined;
}

/** Connects through a client of the caller's, see {@linkcode SqsCall}. */
export interface SqsOwnClient {
  readonly call: SqsCall;
  readonly url?: undefined;
}

/** Options of {@linkcode sqs} that do not say where the queues are. */
export interface SqsCommonOptions {
  /** First part of the names of all queues, so that applications can share an account. @default "" */
  readonly prefix?: string;
  /** FIFO queues: order by key and deduplication by id for five minutes, no delays, fewer messages. @default false */
  readonly fifo?: boolean;
  /** Whether messages travel whole or with their attributes apart. Both are always read. @default "structured" */
  readonly mode?: BindingMode;
  /** How queues come into being. */
  readonly queues?: SqsQueueOptions;
  /** Queues that exist already and are called otherwise. */
  readonly routes?: SqsRoutes;
  /** The largest message with its attributes, and the largest batch, in bytes. AWS allows 1,048,576. @default 262_144 */
  readonly maxMessageBytes?: number;
  /** Deadline of every call, in milliseconds. @default 10_000 */
  readonly timeoutMs?: number;
  /**
   * For how long a publisher goes by the groups it knows, in milliseconds. A subscription that makes a new group waits
   * as long, so that the group gets all that is published after it. @default 2_000
   */
  readonly refreshMs?: number;
  /** The longest that one call waits for messages, and that closing waits for it, in milliseconds. @default 5_000 */
  readonly pollMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

/** How queues come into being. */
export interface SqsQueueOptions {
  /** Whether the queues of new groups are created. @default true */
  readonly create?: boolean;
  /** Attributes of new queues, such as `{ KmsMasterKeyId: "alias/aws/sqs" }`. */
  readonly attributes?: Readonly<Record<string, string>>;
  /** SQS itself moves what was received more often into the dead-letter queue. @default never: the retry policy decides */
  readonly maxReceives?: number;
}

/**
 * A broker on Amazon SQS, or on what speaks its JSON protocol.
 *
 * - **Groups**: SQS has no topics. Each group has a queue, and publishing puts the message into the queue of every group
 *   of the topic. A topic without groups keeps nothing. If one of several queues refuses, the publish is indeterminate,
 *   and repeating it gives the others the message twice.
 * - **Delivery**: at least once; on standard queues sometimes twice without any failure.
 * - **Leases** are visibility timeouts, in whole seconds. A late settlement is refused by the consumer's own clock.
 * - **Order**: none on standard queues; that of each key on FIFO queues, where a retry holds back its own key.
 * - **Retries** on standard queues are a new message with the next attempt, and then the old one is deleted: a crash in
 *   between repeats it. On FIFO queues the message is hidden in its place; its attempts are counted by the consumer, and
 *   by another one from the beginning. Messages without a key are copied there, too.
 * - **Delays** are SQS's own up to 15 minutes, in whole seconds; longer ones are hidden again when they come early.
 * - **Dead letters** have a queue for each group, which every question takes for a moment (`dead_letters.ts`).
 *
 * Creating it does no I/O.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function sqs(options: SqsOptions): Broker {
  const { prefix = "", fifo = false, mode = "structured", maxMessageBytes = 262_144, timeoutMs = 10_000 } =
    options;
  const { refreshMs = 2_000, pollMs = 5_000, routes = {}, queues: made = {}, clock = systemClock } = options;
  const { create = true, attributes = {}, maxReceives } = made;
  if (prefix !== "") checkName("prefix", prefix);
  checkBindingMode(mode);
  checkRange("maxMessageBytes", maxMessageBytes, 2_000, 1_048_576, true);
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("refreshMs", refreshMs, 0, 600_000);
  checkRange("pollMs", pollMs, 0, 20_000);
  if (maxReceives !== undefined) checkRange("queues.maxReceives", maxReceives, 1, 1_000, true);
  const call = withTimeout(options.call ?? sqsClient(options), timeoutMs, clock);
  const features = fifo ? FIFO : STANDARD;
  const queues = createQueues({
    call,
    clock,
    prefix,
    fifo,
    create,
    attributes,
    maxReceives,
    refreshMs,
    routes,
  });
  const send = createSender(call, fifo ? 1 : 8, maxMessageBytes);
  const dead = deadLetterOffice({ call, clock, mode, queues, put, resend });
  const hidden = new Map<string, Map<string, number>>(); // by the queue's URL
  const underway = new Set<Promise<void>>();

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, signal }: PublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    if (delayMs > 0 && fifo) {
      throw new MillstreamError(
        "UNSUPPORTED",
        `Cannot delay messages of topic "${topic}": ${FIFO.reasons.delay}`,
      );
    }
    if (signal?.aborted) throw aborted(signal);
    if (messages.length === 0) return;
    const letters = await Promise.all(
      messages.map((message) =>
        letterOf(message, toContent(message, mode, notesFor(delayMs)), message.id, delayMs)
      ),
    );
    const work = deliver(topic, letters);
    underway.add(work);
    try {
      await work;
    } finally {
      underway.delete(work);
    }
  }

  async function deliver(topic: string, letters: readonly Letter[]): Promise<void> {
    const groups = await queues.groupsOf(topic);
    const sent = groups.flatMap(({ queueUrl }) => letters.map((letter) => send(queueUrl, letter)));
    const outcomes = await Promise.allSettled(sent);
    const failed = outcomes.filter((outcome) => outcome.status === "rejected").map(({ reason }) =>
      toError(reason)
    );
    const [first] = failed;
    if (!first) return;
    if (
      failed.length === outcomes.length &&
      !failed.some((error) => isMillstreamError(error, "PUBLISH_INDETERMINATE"))
    ) throw first;
    throw new MillstreamError(
      "PUBLISH_INDETERMINATE",
      `Cannot tell whether all groups of topic "${topic}" got the messages: ${first.message}. Publish again with the same ids`,
      { cause: first, details: { topic } },
    );
  }

  /** Delays that SQS cannot keep by itself are kept by the consumers. */
  function notesFor(delayMs: number): Notes {
    return delayMs > (fifo ? 0 : MAX_NATIVE_DELAY_MS)
      ? { ...NO_NOTES, notBefore: clock.now() + delayMs }
      : NO_NOTES;
  }

  async function letterOf(
    message: EncodedMessage,
    content: SqsContent,
    dedup: string,
    delayMs: number,
  ): Promise<Letter> {
    const bytes = checkedSize(message.id, content, maxMessageBytes);
    const DelaySeconds = Math.ceil(Math.min(delayMs, MAX_NATIVE_DELAY_MS) / 1_000);
    if (!fifo) return { ...content, bytes, ...(DelaySeconds > 0 ? { DelaySeconds } : {}) };
    return {
      ...content,
      bytes,
      MessageGroupId: await plainId(message.key ?? message.id),
      MessageDeduplicationId: await plainId(dedup),
    };
  }

  async function put(queueUrl: string, message: EncodedMessage, content: SqsContent): Promise<void> {
    await send(queueUrl, await letterOf(message, content, crypto.randomUUID(), 0));
  }

  async function resend(
    { queueUrl }: GroupAddress,
    message: EncodedMessage,
    notes: Notes,
    delayMs = 0,
  ): Promise<void> {
    const { notBefore } = notesFor(delayMs);
    const content = toContent(message, mode, { ...notes, notBefore });
    await send(queueUrl, await letterOf(message, content, crypto.randomUUID(), delayMs));
  }

  async function subscribe(
    topic: string,
    group: string,
    { from = "start", leaseMs = 30_000 }: SubscribeOptions = {},
  ): Promise<Subscription> {
    checkName("topic", topic);
    checkName("group", group);
    checkRange("leaseMs", leaseMs, 50, 43_200_000);
    checkStartFrom(from, features);
    const address = await queues.ensure(topic, group);
    const hiddenHere = hidden.get(address.queueUrl) ?? new Map<string, number>();
    hidden.set(address.queueUrl, hiddenHere);
    return createSubscription({
      hidden: hiddenHere,
      call,
      clock,
      address,
      fifo,
      leaseMs,
      pollMs,
      resend: (message, notes, delayMs) => resend(address, message, notes, delayMs),
      bury: (message, notes, failure) => dead.bury(address, message, notes, failure),
      count: () => count(address),
    });
  }

  async function count(
    { queueUrl, deadQueueUrl }: GroupAddress,
  ): Promise<Omit<GroupStatus, "topic" | "group">> {
    const [counts, letters] = await Promise.all([countQueue(call, queueUrl), countQueue(call, deadQueueUrl)]);
    const waiting = Math.min(counts.inFlight, countHidden(queueUrl));
    const { ready, inFlight, delayed } = counts;
    return {
      ready,
      inFlight: inFlight - waiting,
      delayed: delayed + waiting,
      dead: letters.ready + letters.inFlight + letters.delayed,
    };
  }

  /** What SQS counts as in flight, and only waits for its time, as far as it was hidden here. */
  function countHidden(queueUrl: string): number {
    const now = clock.now();
    const times = hidden.get(queueUrl) ?? new Map<string, number>();
    for (const [id, until] of times) if (until <= now) times.delete(id);
    return times.size;
  }

  async function groups(filter: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    const found = filter.topic === undefined ? await queues.all() : await queues.groupsOf(filter.topic);
    const statuses = found.map(async (address) => (
      { topic: address.topic, group: address.group, ...await count(address) }
    ));
    return (await Promise.all(statuses)).sort((a, b) =>
      a.topic < b.topic || (a.topic === b.topic && a.group < b.group) ? -1 : 1
    );
  }

  async function ping(): Promise<void> {
    try {
      await withTimeout(call, Math.min(timeoutMs, 3_000), clock)("ListQueues", { MaxResults: 1 });
    } catch (error) {
      if (isMillstreamError(error, "UNAVAILABLE", "REJECTED")) throw error;
      throw new MillstreamError("UNAVAILABLE", `Cannot reach SQS: ${toError(error).message}`, {
        cause: error,
      });
    }
  }

  return closableBroker(
    { features, publish, subscribe, deadLetters: dead, groups, ping },
    { drain: () => Promise.allSettled(underway), release: () => Promise.resolve() },
  );
}

/** What SQS keeps by itself. */
const MAX_NATIVE_DELAY_MS = 900_000;
const MAX_DELAY_MS = 13 * 86_400_000;

/** An id as SQS takes them: up to 128 characters of ASCII. Others become their hash. */
async function plainId(id: string): Promise<string> {
  if (/^[A-Za-z0-9!-/:-@[-`{-~]{1,128}$/.test(id)) return id;
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(id)));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const REASONS = {
  replay: "SQS keeps a message until it is handled, and no longer",
  replaySince: "SQS keeps a message until it is handled, and no longer",
  countsStarts: "SQS counts what it hands out, not what is begun",
  reschedules: "SQS finds no message by its id",
} as const;

const STANDARD: BrokerFeatures = Object.freeze({
  name: "sqs",
  persistent: true,
  replay: false,
  keyOrder: false,
  delay: true,
  deduplicates: false,
  fencedAck: true,
  replaySince: false,
  countsStarts: false,
  listsGroups: true,
  reschedules: false,
  emulated: {
    fencedAck: "SQS may take a late settlement; the consumer's own clock refuses it",
  },
  reasons: {
    ...REASONS,
    keyOrder: "standard queues keep no order; `fifo: true` does",
    deduplicates: "standard queues recognise nothing; `fifo: true` does for five minutes",
  },
});

const FIFO: BrokerFeatures = Object.freeze({
  ...STANDARD,
  name: "sqs-fifo",
  keyOrder: true,
  delay: false,
  deduplicates: true,
  reasons: { ...REASONS, delay: "FIFO queues know one delay for the whole queue" },
});
