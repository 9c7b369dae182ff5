/**
 * Exchanges and queues: their names, and how they are declared.
 *
 * ```
 * publish ─► exchange of the topic (fanout) ─┬─► queue of group A ─► consumers
 *                                            └─► queue of group B
 * retry, delay ─► delay ─► one queue per length of time (TTL) ─► return ─► the group's queue, or the topic's exchange
 * ```
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";
import type { AmqpChannel, AmqpDeclaration } from "./driver.ts";

/** What of the topology a user may choose. */
export interface TopologyOptions {
  /** First part of every name, so that applications can share a virtual host. @default "millstream" */
  readonly prefix?: string;
  /**
   * Kind of every queue: `quorum` is replicated and survives the loss of a node, `classic` needs less.
   * @default "quorum"
   */
  readonly queueType?: "quorum" | "classic";
  /**
   * More arguments for the queues of groups: `x-message-ttl`, `x-max-length`, `x-overflow`, `x-dead-letter-exchange`...
   * What the server drops by them is gone without a dead letter of Millstream's.
   */
  readonly queueArguments?: Readonly<Record<string, unknown>>;
  /** More arguments for the exchanges of topics, such as `alternate-exchange`. */
  readonly exchangeArguments?: Readonly<Record<string, unknown>>;
  /**
   * Whether exchanges and queues are made where they are missing. With `false` they are only looked for, and what is
   * missing is refused with `NOT_FOUND`; the account then needs no permission to configure. @default true
   */
  readonly create?: boolean;
}

/** Names and declarations under one prefix. */
export interface Topology {
  readonly delayExchange: string;
  /** Queue in which the groups are noted, since a client cannot ask for the server's queues. */
  readonly registry: string;
  exchange(topic: string): string;
  queue(topic: string, group: string): string;
  deadQueue(topic: string, group: string): string;
  declareTopic(channel: AmqpChannel, topic: string): Promise<void>;
  declareGroup(channel: AmqpChannel, topic: string, group: string): Promise<void>;
  declareRegistry(channel: AmqpChannel): Promise<void>;
  /** The queue for one length of time. */
  declareDelay(channel: AmqpChannel, ms: number): Promise<void>;
  /** Makes what comes back for `address` go to the exchange of a topic. */
  declareReturn(channel: AmqpChannel, topic: string): Promise<void>;
}

/**
 * How often the server may hand out a message in vain before it drops it. RabbitMQ 4 has a limit of 20 by default,
 * which reading dead letters alone would reach; this one is out of reach, and valid on every version.
 */
const DELIVERY_LIMIT = 1_000_000_000;

/** The topology for these options. */
export function topology(options: TopologyOptions): Topology {
  const { prefix = "millstream", queueType = "quorum", create = true } = options;
  // Two colons, which no name of a topic can bring about.
  const delayExchange = `${prefix}::delay`;
  const returnExchange = `${prefix}::return`;
  const registry = `${prefix}::groups`;
  const kind = queueType === "quorum"
    ? { "x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT }
    : { "x-queue-type": "classic" };

  function named(name: string): string {
    if (name.length <= 230) return name; // 255, less what a delay puts before it
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use the name "${name}": expected prefix, topic and group to have 220 characters together at most, as RabbitMQ's names end at 255`,
    );
  }

  const exchange = (topic: string): string => named(`${prefix}:${topic}`);
  const queue = (topic: string, group: string): string => named(`${prefix}:${topic}:${group}`);
  const deadQueue = (topic: string, group: string): string => `${queue(topic, group)}:dead`;

  async function declareExchange(
    channel: AmqpChannel,
    name: string,
    type: string,
    more?: Readonly<Record<string, unknown>>,
  ): Promise<void> {
    if (create) {
      await channel.assertExchange(name, type, { durable: true, ...(more ? { arguments: more } : {}) });
    } else await channel.checkExchange(name);
  }

  async function declareQueue(
    channel: AmqpChannel,
    name: string,
    more?: AmqpDeclaration["arguments"],
  ): Promise<void> {
    if (create) await channel.assertQueue(name, { durable: true, arguments: { ...kind, ...more } });
    else await channel.checkQueue(name);
  }

  async function declareReturns(channel: AmqpChannel): Promise<void> {
    await declareExchange(channel, delayExchange, "topic");
    await declareExchange(channel, returnExchange, "topic");
  }

  const topo: Topology = {
    delayExchange,
    registry,
    exchange,
    queue,
    deadQueue,
    declareTopic: (channel, topic) =>
      declareExchange(channel, exchange(topic), "fanout", options.exchangeArguments),
    async declareGroup(channel, topic, group) {
      const own = queue(topic, group);
      await topo.declareTopic(channel, topic);
      await declareReturns(channel);
      await declareQueue(channel, deadQueue(topic, group));
      await declareQueue(channel, own, options.queueArguments);
      if (!create) return;
      await channel.bindQueue(own, returnExchange, `*.${own}`);
      await channel.bindQueue(own, exchange(topic), "");
    },
    declareRegistry: (channel) => declareQueue(channel, registry),
    async declareDelay(channel, ms) {
      await declareReturns(channel);
      const name = `${delayExchange}:${ms}`;
      const safely = queueType === "quorum"
        ? { "x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish" }
        : {};
      await declareQueue(channel, name, {
        "x-message-ttl": ms,
        "x-dead-letter-exchange": returnExchange,
        ...safely,
      });
      if (create) await channel.bindQueue(name, delayExchange, `${ms}.#`);
    },
    async declareReturn(channel, topic) {
      await declareReturns(channel);
      if (create) await channel.bindExchange(exchange(topic), returnExchange, `*.${exchange(topic)}`);
    },
  };
  return topo;
}

/**
 * The length of time of the queue that a delay goes through: at least `delayMs`, and late by an eighth at most above a
 * minute and by a quarter below, so that few queues serve all retries. Never early.
 */
export function delayBucket(delayMs: number): number {
  const ms = Math.max(16, Math.ceil(delayMs));
  const step = 2 ** Math.floor(Math.log2(ms)) / (ms > 60_000 ? 8 : 4);
  return Math.ceil(ms / step) * step;
}
