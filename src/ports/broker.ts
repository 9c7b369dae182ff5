/**
 * The broker port: topics that carry encoded messages to consumer groups, at least once.
 *
 * A topic is queue and pub/sub in one. Every group gets every message published after the group was created (or from
 * the start, see {@linkcode SubscribeOptions.from}); inside a group each message is handed to one consumer at a time.
 *
 * @module
 */
import type { Abortable } from "../core/clock.ts";
import type { EncodedMessage } from "../core/message.ts";
import type { DeadLetters, Failure } from "./dead_letters.ts";
import type { StartFrom } from "./start_from.ts";

export type { StartFrom } from "./start_from.ts";

/** Sends messages. All a producer, a relay or the edge needs. */
export interface Publisher {
  /**
   * Publishes to a topic; the topic comes into being with the first message.
   *
   * - Resolved: the broker has every message, in the given order, as durably as its documentation says.
   * - Rejected with `PUBLISH_INDETERMINATE` (reply lost, deadline passed): any, all or none of them may have been
   *   accepted. Publish again **with the same ids**; consumers recognise them. Implementations never resend by
   *   themselves with new ids, and never hide a resend.
   * - Rejected with anything else: nothing was accepted. `retryable` says whether trying again can help.
   *
   * It settles within the implementation's deadline, whatever the network does. An empty list resolves at once.
   */
  publish(topic: string, messages: readonly EncodedMessage[], options?: PublishOptions): Promise<void>;
}

/** Options of {@linkcode Publisher.publish}. */
export interface PublishOptions extends Abortable {
  /** Not handed to any consumer before this many milliseconds have passed. Needs `features.delay`. @default 0 */
  readonly delayMs?: number;
}

/** A connection to a broker. */
export interface Broker extends Publisher, AsyncDisposable {
  /** What it can do and what it cannot. */
  readonly features: BrokerFeatures;

  /**
   * Joins a group as a new consumer; creates topic and group if they do not exist. The group outlives its consumers.
   * A group that vanished on the server is created again from its last known place or from the start, never from
   * the end.
   *
   * @throws `UNSUPPORTED` for `from: { since }` without `features.replaySince`.
   */
  subscribe(topic: string, group: string, options?: SubscribeOptions): Promise<Subscription>;

  /** Messages that were given up. */
  readonly deadLetters: DeadLetters;

  /** Reading a topic without a group, for live views. Absent where the broker keeps no log. */
  readonly log?: TopicLog;

  /** Messages that were published with a delay and whose time has not come. Absent where they cannot be reached. */
  readonly scheduled?: Scheduled;

  /**
   * How every group stands: all that the broker knows of, or, with `features.listsGroups` false, those that this
   * connection has joined. Sorted by topic and group.
   */
  groups(filter?: { readonly topic?: string }): Promise<readonly GroupStatus[]>;

  /** Resolves if the broker answers now; rejects with `UNAVAILABLE` within a few seconds if not. */
  ping(): Promise<void>;
}

/** Options of {@linkcode Broker.subscribe}. */
export interface SubscribeOptions {
  /** Where a **new** group begins. An existing group continues where it is. @default "start" */
  readonly from?: StartFrom;
  /**
   * How long a delivery belongs to this consumer without being extended, in milliseconds. Whatever is not settled
   * then goes to another consumer. @default 30_000
   */
  readonly leaseMs?: number;
}

/** A message handed to one consumer. Plain data; settle it through the {@linkcode Subscription} it came from. */
export interface Delivery extends EncodedMessage {
  readonly topic: string;
  readonly group: string;
  /** 1 for the first try; one more for each try that {@linkcode Subscription.retry} ended. */
  readonly attempt: number;
  /**
   * Whether it was handed out before, to this or another consumer, who then left it to its lease. False again after a
   * retry or a release: only what may have taken its process with it is marked.
   */
  readonly redelivered: boolean;
  /** The implementation's own handle. Opaque. */
  readonly token: string;
}

/**
 * One consumer of one group. Every delivery ends in exactly one of `ack`, `retry`, `deadLetter` or `release`. Settling
 * a delivery whose lease is lost changes nothing and is reported; settling twice is the same as once.
 *
 * Disposing waits for calls under way, then hands unsettled deliveries back at once where the broker can, and leaves
 * them to their lease where it cannot. It is idempotent and safe while a pull waits.
 */
export interface Subscription extends AsyncDisposable {
  readonly topic: string;
  readonly group: string;

  /**
   * Takes up to `max` deliveries, waiting up to `waitMs` for the first. Returns an empty array when time is up, and
   * rejects with `ABORTED` when the signal aborts while nothing was taken. Deliveries of a consumer that died come
   * here when their lease runs out.
   *
   * With `features.keyOrder`, no two deliveries of one key are out at the same time in the whole group, and a key
   * whose message waits for its retry holds back its own followers only.
   */
  pull(max: number, options: PullOptions): Promise<readonly Delivery[]>;

  /** Done. Returns those whose lease was lost: another consumer has or had them. */
  ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]>;

  /** Failed; deliver again to this group only, not before `delayMs`, with `attempt` one higher. False if the lease was lost. */
  retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean>;

  /** Given up: kept with the original bytes and the failure, atomically taken from the group. False if the lease was lost. */
  deadLetter(delivery: Delivery, failure: Failure): Promise<boolean>;

  /**
   * Says that a handler begins to work on a delivery. Returns how often one has begun, this time included, since the
   * message was last settled, retried or released: a message that kills its process again and again is found by this
   * count, and its neighbours, which were only handed out, are not. `undefined` if the lease was lost. Without
   * `features.countsStarts` it always resolves to 1.
   */
  begin(delivery: Delivery): Promise<number | undefined>;

  /** Still working: the lease starts anew. Returns those whose lease was lost. */
  extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]>;

  /** Not started: back to the group now, with the same `attempt`. */
  release(deliveries: readonly Delivery[]): Promise<void>;

  /** How the group stands. */
  lag(): Promise<GroupLag>;
}

/** Options of {@linkcode Subscription.pull}. */
export interface PullOptions extends Abortable {
  /** How long to wait for the first delivery, in milliseconds. */
  readonly waitMs: number;
}

/** Counts of one group. */
export interface GroupLag {
  /** Ready to be taken. */
  readonly ready: number;
  /** Handed out and not settled. */
  readonly inFlight: number;
  /** Waiting for their time. */
  readonly delayed: number;
  /** In the dead-letter queue. */
  readonly dead: number;
}

/** A group as seen from outside. */
export interface GroupStatus extends GroupLag {
  readonly topic: string;
  readonly group: string;
  /** For how long the oldest message that is not settled has been with the broker, in milliseconds, where it can tell. */
  readonly oldestMs?: number;
}

/** Messages whose time has not come: those that were published with a delay. Retries are not among them. */
export interface Scheduled {
  /**
   * Forgets it. False if it is not there (any more): it may have been handed out. An id that was cancelled may still
   * be recognised when it is published again: give what takes its place another one.
   */
  cancel(topic: string, id: string): Promise<boolean>;
  /** Gives it another time, `delayMs` from now; 0 for at once. False if it is not there (any more). */
  reschedule(topic: string, id: string, delayMs: number): Promise<boolean>;
}

/** A topic as a log that many may read, each at its own place. */
export interface TopicLog {
  /**
   * Reads what follows `after` in the order of the topic, waiting up to `waitMs` if there is nothing yet.
   * Positions are opaque, contain only `A-Za-z0-9_-`, and stay valid as long as the message is kept.
   *
   * @param after A position from an earlier read; `"start"` or `"now"` to begin.
   * @throws `INVALID_ARGUMENT` if `after` is not a position of this topic.
   */
  read(topic: string, after: string, options: TopicReadOptions): Promise<TopicPage>;
}

/** Options of {@linkcode TopicLog.read}. */
export interface TopicReadOptions extends PullOptions {
  /** At most this many entries. */
  readonly limit: number;
}

/** What {@linkcode TopicLog.read} returns. */
export interface TopicPage {
  readonly entries: ReadonlyArray<EncodedMessage & { readonly position: string }>;
  /** Where to read on, also when there are no entries. */
  readonly next: string;
  /** Whether messages after `after` are no longer kept and therefore missing. */
  readonly gap: boolean;
}

/** What a broker does itself, what the adapter adds, and what is impossible. Drives the conformance suite. */
export interface BrokerFeatures {
  /** Name for tables and messages: `redis-streams`. */
  readonly name: string;
  /** Messages survive the end of every process using it. */
  readonly persistent: boolean;
  /** A new group can begin with messages that were published before it existed. */
  readonly replay: boolean;
  /** One key is handled in order across all consumers of a group, other keys in parallel. */
  readonly keyOrder: boolean;
  /** `delayMs` at publish. */
  readonly delay: boolean;
  /** Publishing the same id again within a window adds nothing. */
  readonly deduplicates: boolean;
  /** A settlement after the lease was lost is refused. */
  readonly fencedAck: boolean;
  /** A new group can begin at a moment: `from: { since }`. */
  readonly replaySince: boolean;
  /** `Subscription.begin` counts. */
  readonly countsStarts: boolean;
  /** `Broker.groups` knows groups that this connection has not joined. */
  readonly listsGroups: boolean;
  /** `Broker.scheduled` is there. */
  readonly reschedules: boolean;
  /** Why something above is false, by feature. Shown as the reason of skipped tests. */
  readonly reasons: Readonly<
    Partial<Record<Exclude<keyof BrokerFeatures, "name" | "reasons" | "emulated">, string>>
  >;
  /** How the implementation adds what the server does not do by itself, by feature that is true. */
  readonly emulated?: BrokerFeatures["reasons"];
}
