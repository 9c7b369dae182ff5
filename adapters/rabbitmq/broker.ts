/**
 * The broker over RabbitMQ.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import type { BindingMode } from "../../src/core/binding.ts";
import { abortable, aborted, type Clock, sleep, systemClock } from "../../src/core/clock.ts";
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
import { browser } from "./browse.ts";
import { rabbitDeadLetters } from "./dead_letters.ts";
import { type AmqpConnection, type AmqpProperties, type Driver, loadDriver } from "./driver.ts";
import { FEATURES } from "./features.ts";
import { type Line, link } from "./link.ts";
import { toAmqp } from "./message.ts";
import { type Group, noteOf, readGroups } from "./registry.ts";
import { sender } from "./sender.ts";
import { type OpenSubscription, subscription } from "./subscription.ts";
import { delayBucket, topology, type TopologyOptions } from "./topology.ts";

/** Options of {@linkcode rabbitmq}. */
export type RabbitmqOptions = RabbitmqCommonOptions & (RabbitmqUrl | RabbitmqOwnConnection);

/** Connects through amqplib. */
export interface RabbitmqUrl {
  /** `amqp://[user:password@]host[:port][/vhost][?heartbeat=seconds]`, or `amqps://` for TLS. */
  readonly url: string;
  readonly connection?: undefined;
}

/** Connects through connections of the caller's, who also closes them. */
export interface RabbitmqOwnConnection {
  /**
   * A connection of amqplib, or a function that makes one. A function is called again when a connection was lost; a
   * connection is used until it is lost.
   */
  readonly connection: AmqpConnection | (() => Promise<AmqpConnection>);
  readonly url?: undefined;
}

/** Options of {@linkcode rabbitmq} that do not say where the server is. */
export interface RabbitmqCommonOptions extends TopologyOptions {
  /** Deadline of every call to the server, in milliseconds. @default 5_000 */
  readonly timeoutMs?: number;
  /**
   * Messages that a consumer fetches at least, before it has settled the last ones. Grows to the largest pull.
   * @default 1
   */
  readonly prefetch?: number;
  /** Which of the two CloudEvents modes messages go out in; both are understood. @default "structured" */
  readonly mode?: BindingMode;
  /**
   * What becomes of a message for whose topic no group exists: accepted and gone, as in any publish and subscribe, or
   * refused with `NOT_FOUND`, which can be retried. @default "accept"
   */
  readonly withoutGroups?: "accept" | "refuse";
  /** @default the runtime's own */
  readonly clock?: Clock;
  /** Told about vanished queues and failures while leaving. */
  readonly observer?: Observer;
}

/**
 * A broker on RabbitMQ 3.10 or later, 4.x included: an exchange per topic, a quorum queue per group.
 *
 * - **Delivery**: at least once. Published means confirmed: every queue of the topic has it on a majority of its nodes.
 *   A group gets what is published after it was created; RabbitMQ keeps nothing for groups that come later.
 * - **Publishing** that loses its channel goes on over the next one with the same ids until the deadline, and says
 *   `PUBLISH_INDETERMINATE` after it. RabbitMQ recognises no ids: use the inbox.
 * - **Leases** run in the consuming process, which puts back what it does not settle in time; the server puts back what
 *   a lost connection held, a dead process's at once, a frozen one's after two heartbeats. A handler may not take
 *   longer than the server's `consumer_timeout`, 30 minutes by default.
 * - **Retries** and delays go through queues with a time to live, one for each length of time, and come late by a
 *   quarter at most, never early. First the copy is confirmed, then the original acknowledged: a crash in between makes
 *   two of it, never none.
 * - **Order**: as published, for one consumer and without failures. Several consumers share a group without regard
 *   to keys; what is retried or released goes to the end.
 * - **Dead letters** lie in a queue of the group's; see `dead_letters.ts` for what looking at them costs.
 *
 * Creating it does no I/O. It holds two connections, so that a server that throttles publishers does not hold up
 * acknowledgements, and a channel for each subscription.
 *
 * @throws `INVALID_ARGUMENT` for an option out of range.
 */
export function rabbitmq(options: RabbitmqOptions): Broker {
  const {
    timeoutMs = 5_000,
    prefetch = 1,
    mode = "structured",
    withoutGroups = "accept",
    clock = systemClock,
  } = options;
  checkName("prefix", options.prefix ?? "millstream");
  checkRange("timeoutMs", timeoutMs, 1, 600_000);
  checkRange("prefetch", prefetch, 1, 65_535, true);
  checkChoice("mode", mode, ["structured", "binary"]);
  checkChoice("withoutGroups", withoutGroups, ["accept", "refuse"]);
  checkChoice("queueType", options.queueType ?? "quorum", ["quorum", "classic"]);
  const names = topology(options);
  const observe = safeObserver(options.observer);

  let loading: Promise<Driver> | undefined;
  const driver = (): Promise<Driver> => loading ??= loadDriver();
  const own = options.connection === undefined;
  const connect = connector(options, driver, timeoutMs);
  const outgoing = link({ connect, own, timeoutMs, clock });
  const incoming = link({ connect, own, timeoutMs, clock });
  const out = sender({ link: outgoing, clock, timeoutMs });
  const browse = browser({ link: incoming, clock, timeoutMs });
  const open = new Map<OpenSubscription, Group>();
  const waiting: Array<Group & { readonly until: number }> = [];
  let moves = 0;
  let moving = 0;

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, signal }: PublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, 4_000_000_000);
    if (signal?.aborted) throw aborted(signal);
    if (messages.length === 0) return;
    const { bytes } = await driver();
    const exchange = names.exchange(topic);
    const bucket = delayMs > 0 ? delayBucket(delayMs) : 0;
    const prepared = messages.map((message) => {
      const { body, properties } = toAmqp(message, mode);
      const address = bucket > 0
        ? { exchange: names.delayExchange, key: `${bucket}.${exchange}` }
        : { exchange, key: "" };
      return { ...address, body: bytes(body), properties };
    });
    const once = bucket > 0 ? `${exchange} after ${bucket}` : exchange;
    const sending = out.send(prepared, {
      name: topic,
      mustArrive: bucket > 0 || withoutGroups === "refuse",
      declare: {
        once,
        async run(channel) {
          await names.declareTopic(channel, topic);
          if (bucket === 0) return;
          await names.declareDelay(channel, bucket);
          await names.declareReturn(channel, topic);
        },
      },
    });
    await abortable(sending, signal);
    if (bucket > 0) { for (let n = 0; n < messages.length; n++) delayed({ topic, group: "" }, bucket); }
  }

  /** Puts a copy into a group's own queue, after a delay. */
  async function putBack(
    group: Group,
    body: Uint8Array,
    properties: AmqpProperties,
    delayMs: number,
  ): Promise<void> {
    const queue = names.queue(group.topic, group.group);
    if (delayMs <= 0) return await sendTo(queue, group, body, properties);
    const bucket = delayBucket(delayMs);
    const message = { exchange: names.delayExchange, key: `${bucket}.${queue}`, body, properties };
    await out.send([message], {
      name: group.topic,
      mustArrive: true,
      declare: { once: `after ${bucket}`, run: (channel) => names.declareDelay(channel, bucket) },
    });
    delayed(group, bucket);
  }

  async function sendTo(
    queue: string,
    { topic }: Group,
    body: Uint8Array,
    properties: AmqpProperties,
  ): Promise<void> {
    await out.send([{ exchange: "", key: queue, body, properties }], { name: topic, mustArrive: true });
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
    const place = { topic, group };
    const queue = names.queue(topic, group);
    if (options.create !== false) await register(place);
    const first = await openFor(place);
    let unused: Line | undefined = first;
    const joined = subscription({ topic, group, queue, leaseMs }, {
      clock,
      observe,
      prefetch,
      open() {
        const line = unused;
        unused = undefined;
        return line && !line.closed ? Promise.resolve(line) : openFor(place);
      },
      putBack: (body, properties, delayMs) => putBack(place, body, properties, delayMs),
      bury: (body, properties) => sendTo(names.deadQueue(topic, group), place, body, properties),
      lag: () => lag(place),
      async moving(work) {
        moves++;
        moving++;
        await work().finally(() => moving--);
      },
    });
    const dispose = async (): Promise<void> => {
      await joined[Symbol.asyncDispose]();
      await unused?.close();
      open.delete(joined);
    };
    open.set(joined, place);
    return { ...joined, [Symbol.asyncDispose]: dispose };
  }

  async function openFor({ topic, group }: Group): Promise<Line> {
    const line = await incoming.open("plain");
    try {
      await line.call(`declare "${topic}/${group}"`, names.declareGroup(line.channel, topic, group));
      return line;
    } catch (error) {
      await line.close();
      throw error;
    }
  }

  /** Notes a new group before its queues are made, so that what is there can always be found. */
  async function register(group: Group): Promise<void> {
    if (await count(names.deadQueue(group.topic, group.group)) !== undefined) return;
    const { bytes } = await driver();
    const note = {
      exchange: "",
      key: names.registry,
      body: bytes(noteOf(group)),
      properties: { persistent: true },
    };
    await out.send([note], {
      name: names.registry,
      mustArrive: true,
      declare: { once: names.registry, run: (channel) => names.declareRegistry(channel) },
    });
  }

  /** Messages in a queue, `undefined` if there is no such queue. */
  async function count(queue: string): Promise<number | undefined> {
    const line = await incoming.open("plain");
    try {
      return (await line.call(`count "${queue}"`, line.channel.checkQueue(queue))).messageCount;
    } catch (error) {
      if (error instanceof MillstreamError && error.code === "NOT_FOUND") return undefined;
      throw error;
    } finally {
      await line.close();
    }
  }

  /** Remembers what waits: a client cannot ask the server for what lies in the queues of delays. */
  function delayed({ topic, group }: Group, ms: number): void {
    const now = clock.monotonic();
    if (waiting.length > 10_000) {
      waiting.splice(
        0,
        waiting.length,
        ...waiting.filter(({ until }) => until > now),
      );
    }
    if (waiting.length <= 100_000) waiting.push({ topic, group, until: now + ms });
  }

  /** Counted again while a consumer puts back what it had only fetched, which is nowhere for a moment. */
  async function lag(place: Group): Promise<GroupLag> {
    for (let look = 1;; look++) {
      const before = moves;
      const counts = await countAll(place);
      if ((before === moves && moving === 0) || look === 20) return counts;
      await sleep(clock, 10);
    }
  }

  async function countAll(place: Group): Promise<GroupLag> {
    const { topic, group } = place;
    const [ready = 0, dead = 0] = await Promise.all([
      count(names.queue(topic, group)),
      count(names.deadQueue(topic, group)),
    ]);
    const own = [...open].filter(([, other]) => other.topic === topic && other.group === group);
    const now = clock.monotonic();
    return {
      ready: own.reduce((sum, [{ holds }]) => sum + holds.buffered, ready),
      inFlight: own.reduce((sum, [{ holds }]) => sum + holds.inFlight, 0),
      delayed:
        waiting.filter((one) =>
          one.topic === topic && (one.group === "" || one.group === group) && one.until > now
        ).length,
      dead,
    };
  }

  const groups = (topic: string | undefined): Promise<readonly Group[]> =>
    readGroups(browse, names.registry, topic);

  async function ping(): Promise<void> {
    const line = await incoming.open("plain");
    await line.close();
  }

  const dead = rabbitDeadLetters({
    topology: names,
    browse,
    groups,
    count: async (queue) => await count(queue) ?? 0,
    send: (group, body, properties) => putBack(group, body, properties, 0),
  });
  async function statuses(filter: { readonly topic?: string } = {}): Promise<readonly GroupStatus[]> {
    const listed = await groups(filter.topic);
    return await Promise.all(listed.map(async (place) => ({ ...place, ...await lag(place) })));
  }

  return closableBroker(
    { features: FEATURES, publish, subscribe, deadLetters: dead, groups: statuses, ping },
    {
      drain: out.drained,
      async release() {
        await out.drained(); // of what the subscriptions handed back
        await Promise.all([outgoing.close(), incoming.close()]);
      },
    },
  );
}

/** Makes connections as the options say. */
function connector(
  { url, connection }: RabbitmqOptions,
  driver: () => Promise<Driver>,
  timeoutMs: number,
): () => Promise<AmqpConnection> {
  if (typeof connection === "function") return connection;
  if (connection !== undefined) return () => Promise.resolve(connection);
  const address = withHeartbeat(url);
  return async () => await (await driver()).connect(address, timeoutMs);
}

/** A dead peer is noticed after two heartbeats; the server's own default makes that two minutes. */
function withHeartbeat(url: string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch {
    throw badUrl();
  }
  if (parsed.protocol !== "amqp:" && parsed.protocol !== "amqps:") throw badUrl();
  if (!parsed.searchParams.has("heartbeat")) parsed.searchParams.set("heartbeat", "10");
  return parsed.href;
}

function badUrl(): MillstreamError {
  // Not repeated in the message: it may contain a password.
  return new MillstreamError(
    "INVALID_ARGUMENT",
    'Cannot use option "url": expected amqp://host or amqps://host',
  );
}

function checkChoice(option: string, value: string, choices: readonly string[]): void {
  if (choices.includes(value)) return;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "${option}": expected ${choices.join(" or ")}, got ${describe(value)}`,
    { details: { option } },
  );
}
