/**
 * The broker over NATS JetStream.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import type { BindingMode } from "../../src/core/binding.ts";
import { abortable, aborted, type Clock, systemClock } from "../../src/core/clock.ts";
import { describe, MillstreamError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import { checkName } from "../../src/core/names.ts";
import { type Observer, safeObserver } from "../../src/core/observer.ts";
import type {
  Broker,
  GroupLag,
  GroupStatus,
  PublishOptions,
  SubscribeOptions,
  Subscription,
} from "../../src/ports/broker.ts";
import { closableBroker } from "../../src/ports/closable.ts";
import { checkStartFrom } from "../../src/ports/start_from.ts";
import { countDead, natsDeadLetters } from "./dead_letters.ts";
import { connectNats, type NatsConnection } from "./driver.ts";
import { FEATURES } from "./features.ts";
import { link } from "./link.ts";
import { topicLog } from "./log.ts";
import { toNats, type Wire } from "./message.ts";
import { sender } from "./sender.ts";
import { type ConsumerInfo, filtersSubjects, type StreamOptions, streams } from "./streams.ts";
import { subscription } from "./subscription.ts";

/** Options of {@linkcode nats}. */
export type NatsOptions = NatsCommonOptions & (NatsUrl | NatsOwnConnection);

/** Connects through `@nats-io/transport-node`. */
export interface NatsUrl {
  /** `nats://[user:password@]host[:port]`, or `tls://`. */
  readonly url: string;
  readonly connection?: undefined;
}

/** Connects through connections of the caller's, who also closes them. */
export interface NatsOwnConnection {
  /**
   * A connection of nats.js over any transport, or a function that makes one and is called again when it was closed.
   * Let it reconnect without an end (`maxReconnectAttempts: -1`).
   */
  readonly connection: NatsConnection | (() => Promise<NatsConnection>);
  readonly url?: undefined;
}

/** Options of {@linkcode nats} that do not say where the server is. */
export interface NatsCommonOptions extends StreamOptions {
  /** Deadline of every call to the server, in milliseconds. @default 5_000 */
  readonly timeoutMs?: number;
  /** JetStream domain, such as that of a leaf node. */
  readonly domain?: string;
  /** Which of the two CloudEvents modes messages go out in; both are understood. @default "structured" */
  readonly mode?: BindingMode;
  /** @default the runtime's own */
  readonly clock?: Clock;
  /** Told about vanished groups and missed signs of life. */
  readonly observer?: Observer;
}

/**
 * A broker on NATS JetStream, server 2.9 or later: a stream per topic, a durable pull consumer per group.
 *
 * - **Delivery**: at least once. Published means stored by the stream, on a majority of its replicas; a server writes
 *   to disk at once, and forces it there every two minutes unless its `sync_interval` says otherwise.
 * - **Publishing** an id again within the stream's `duplicate_window`, two minutes by default, adds nothing.
 * - **Groups** begin at the start, now, or at a moment.
 * - **Leases** run in the consuming process, which puts back what it does not settle in time. What a dead process held
 *   goes to others after `ackWaitMs`. A settlement after either is refused.
 * - **Retries** are copies for the group with the next attempt; a delay is kept by handing the message back to the
 *   server until its time, by this machine's clock against the server's. First the copy is confirmed, then the original
 *   acknowledged; a copy that is made twice is recognised.
 * - **Order**: as published, for one consumer and without failures. Several consumers share a group without regard
 *   to keys; what is retried or released comes later.
 * - On servers before 2.10 every group of a topic also receives, and drops, the copies for the others.
 *
 * Creating it does no I/O. It holds one connection.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function nats(options: NatsOptions): Broker {
  const { timeoutMs = 5_000, mode = "structured", clock = systemClock, domain } = options;
  checkName("prefix", options.prefix ?? "millstream");
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("ackWaitMs", options.ackWaitMs ?? 10_000, 100, 86_400_000);
  if (domain !== undefined) checkName("domain", domain);
  if (mode !== "structured" && mode !== "binary") {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use option "mode": expected structured or binary, got ${describe(mode)}`,
      { details: { option: "mode" } },
    );
  }
  const observe = safeObserver(options.observer);
  const api = domain === undefined ? "$JS.API" : `$JS.${domain}.API`;
  const own = options.connection === undefined;
  const server = link({ connect: connector(options, timeoutMs), own, clock, timeoutMs, api });
  const names = streams(options, server);
  const out = sender({ link: server, timeoutMs });
  const copies: Copy[] = [];

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, signal }: PublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, 366 * 86_400_000);
    if (signal?.aborted) throw aborted(signal);
    if (messages.length === 0) return;
    const wires = messages.map((message) => toNats(message, mode, delayMs));
    const sending = out.send(names.subject(topic), wires, {
      name: topic,
      declare: () => names.ensureTopic(topic),
      names,
    });
    const places = await abortable(sending, signal);
    if (delayMs > 0) {
      for (const seq of places) {
        remember({ topic, group: undefined, seq, until: clock.monotonic() + delayMs });
      }
    }
  }

  async function putBack(topic: string, group: string, copy: Wire, delayMs: number): Promise<void> {
    const declare = () => names.ensureTopic(topic);
    const [seq = 0] = await out.send(names.groupSubject(topic, group), [copy], {
      name: topic,
      declare,
      names,
    });
    remember({ topic, group, seq, until: clock.monotonic() + delayMs });
  }

  async function bury(topic: string, group: string, copy: Wire): Promise<void> {
    const declare = () => names.ensureDead();
    await out.send(names.deadSubject(topic, group), [copy], { name: names.dead, declare, names });
  }

  /** What was delayed, and what is a copy for another group, cannot be told from the server's counts. */
  function remember(copy: Copy): void {
    if (copies.length >= 20_000) copies.splice(0, 10_000);
    copies.push(copy);
  }

  async function subscribe(
    topic: string,
    group: string,
    { from = "start", leaseMs = 30_000 }: SubscribeOptions = {},
  ): Promise<Subscription> {
    checkName("topic", topic);
    checkName("group", group);
    checkRange("leaseMs", leaseMs, 50, 86_400_000);
    checkStartFrom(from, FEATURES);
    const { config } = await names.ensureGroup(topic, group, from);
    return subscription({
      topic,
      group,
      ask: `${api}.CONSUMER.MSG.NEXT.${names.stream(topic)}.${names.token(group)}`,
      own: names.groupSubject(topic, group),
      shared: names.subject(topic),
      leaseMs,
      ackWaitMs: config.ack_wait / 1_000_000,
      since: config.opt_start_time === undefined ? 0 : Date.parse(config.opt_start_time),
    }, {
      clock,
      observe,
      connection: server.connection,
      flush: server.flush,
      async rejoin() {
        names.forget();
        await names.ensureGroup(topic, group, "start");
      },
      putBack: (copy, delayMs) => putBack(topic, group, copy, delayMs),
      bury: (copy) => bury(topic, group, copy),
      lag: () => lag(topic, group),
    });
  }

  async function lag(topic: string, group: string): Promise<GroupLag> {
    const subject = names.deadSubject(topic, group);
    const [info, dead, connection] = await Promise.all([
      names.consumerInfo(topic, group),
      countDead(server, names, subject),
      server.connection(),
    ]);
    return lagOf(topic, group, info, dead.get(subject) ?? 0, filtersSubjects(connection.info?.version));
  }

  function lagOf(topic: string, group: string, info: ConsumerInfo, dead: number, filters: boolean): GroupLag {
    const now = clock.monotonic();
    const reached = info.delivered.stream_seq;
    let [delayed, seen, unseen] = [0, 0, 0];
    for (const copy of copies) {
      if (copy.topic !== topic) continue;
      const mine = copy.group === undefined || copy.group === group;
      if (mine && copy.until > now) {
        delayed++;
        if (copy.seq <= reached) seen++;
        else unseen++;
      } else if (!mine && !filters && copy.seq > reached) unseen++;
    }
    const ready = Math.max(0, info.num_pending - unseen);
    return { ready, inFlight: Math.max(0, info.num_ack_pending - seen), delayed, dead };
  }

  async function groups(filter: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    const listed: GroupStatus[] = [];
    const dead = await countDead(server, names, `${names.dead}.>`);
    const filters = filtersSubjects((await server.connection()).info?.version);
    const all = filter.topic === undefined
      ? await pages<string>("STREAM.NAMES", "streams")
      : [names.stream(filter.topic)];
    for (const stream of all) {
      if (!stream.startsWith(names.topicPrefix)) continue;
      const topic = names.name(stream.slice(names.topicPrefix.length));
      for (const info of await pages<ConsumerInfo>(`CONSUMER.LIST.${stream}`, "consumers")) {
        const group = names.name(info.name);
        const buried = dead.get(names.deadSubject(topic, group)) ?? 0;
        listed.push({ topic, group, ...lagOf(topic, group, info, buried, filters) });
      }
    }
    return listed.sort((a, b) => a.topic < b.topic || (a.topic === b.topic && a.group < b.group) ? -1 : 1);
  }

  /** All pages of a list; empty if what is listed does not exist. */
  async function pages<T>(subject: string, field: string): Promise<readonly T[]> {
    const all: T[] = [];
    for (;;) {
      const page = await server.api<{ total: number } & Readonly<Record<string, readonly T[]>>>(
        "list groups",
        subject,
        { offset: all.length },
      ).catch((error) => {
        if (error instanceof MillstreamError && error.code === "NOT_FOUND") return undefined;
        throw error;
      });
      const items = page?.[field] ?? [];
      all.push(...items);
      if (!page || items.length === 0 || all.length >= page.total) return all;
    }
  }

  const log = topicLog({ link: server, streams: names, clock });
  const letters = natsDeadLetters({
    link: server,
    streams: names,
    send: (topic, group, copy) => putBack(topic, group, copy, 0),
  });
  const ping = async (): Promise<void> => void await server.api("reach JetStream", "INFO");
  return closableBroker(
    { features: FEATURES, publish, subscribe, deadLetters: letters, log, groups, ping },
    {
      drain: out.drained,
      async release() {
        await out.drained(); // of what the subscriptions handed back
        await server.close();
      },
    },
  );
}

/** A message that counts otherwise than the server counts it. */
interface Copy {
  readonly topic: string;
  /** For whom it is; for all groups if `undefined`. */
  readonly group: string | undefined;
  readonly seq: number;
  /** When it is due, monotonic. */
  readonly until: number;
}

function connector({ url, connection }: NatsOptions, timeoutMs: number): () => Promise<NatsConnection> {
  if (typeof connection === "function") return connection;
  if (connection !== undefined) return () => Promise.resolve(connection);
  if (!URL.canParse(url) || !/^(nats|tls):$/.test(new URL(url).protocol)) {
    // Not repeated in the message: it may contain a password.
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      'Cannot use option "url": expected nats://host or tls://host',
    );
  }
  return () => connectNats(url, timeoutMs);
}
