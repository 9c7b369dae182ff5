/**
 * The queues of groups: which there are, where they are, and how they come into being.
 *
 * @module
 */
import { type Clock, sleep } from "../../src/core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../src/core/errors.ts";
import type { SqsCall } from "./client.ts";
import { asSqsError } from "./failures.ts";
import { allTopics, type GroupQueues, groupQueues, ownerOf, topicPrefix } from "./names.ts";

/** A group and where its queues are. */
export interface GroupAddress {
  readonly topic: string;
  readonly group: string;
  readonly queueUrl: string;
  readonly deadQueueUrl: string;
}

/** Queues that exist already and are called otherwise: by topic, then by group. Such topics have these groups and no others. */
export type SqsRoutes = Readonly<
  Record<string, Readonly<Record<string, { readonly queueUrl: string; readonly deadQueueUrl: string }>>>
>;

/** What the directory needs. */
export interface QueueContext {
  readonly call: SqsCall;
  readonly clock: Clock;
  readonly prefix: string;
  readonly fifo: boolean;
  readonly create: boolean;
  readonly attributes: Readonly<Record<string, string>>;
  readonly maxReceives: number | undefined;
  readonly refreshMs: number;
  readonly routes: SqsRoutes;
}

/** Knows the queues. */
export interface Queues {
  /** The groups of a topic, as they were at most `refreshMs` ago. */
  groupsOf(topic: string): Promise<readonly GroupAddress[]>;
  /** All groups. */
  all(): Promise<readonly GroupAddress[]>;
  /** A group that is there; `undefined` if not. */
  find(topic: string, group: string): Promise<GroupAddress | undefined>;
  /** A group that is there or comes into being. Then every publisher has noticed when this resolves. */
  ensure(topic: string, group: string): Promise<GroupAddress>;
}

/** Two weeks, the most that SQS keeps a message. */
const RETENTION_S = 1_209_600;

/** The queues of one account and region. */
export function createQueues(context: QueueContext): Queues {
  const { call, clock, prefix, fifo, refreshMs, routes } = context;
  const known = new Map<
    string,
    { readonly until: number; readonly groups: Promise<readonly GroupAddress[]> }
  >();

  function routed(topic: string): readonly GroupAddress[] | undefined {
    const groups = Object.hasOwn(routes, topic) ? routes[topic] : undefined;
    return groups && Object.entries(groups).map(([group, urls]) => ({ topic, group, ...urls }));
  }

  function groupsOf(topic: string): Promise<readonly GroupAddress[]> {
    const fixed = routed(topic);
    if (fixed) return Promise.resolve(fixed);
    const now = clock.monotonic();
    const cached = known.get(topic);
    if (cached && cached.until > now) return cached.groups;
    const groups = list(topicPrefix(prefix, topic)).then((found) =>
      found.filter((group) => group.topic === topic)
    );
    groups.catch(() => known.delete(topic));
    known.set(topic, { until: now + refreshMs, groups });
    return groups;
  }

  async function list(start: string): Promise<readonly GroupAddress[]> {
    const urls = new Map<string, string>();
    let token: string | undefined;
    do {
      const input = {
        MaxResults: 1_000,
        ...(start === "" ? {} : { QueueNamePrefix: start }),
        ...(token ? { NextToken: token } : {}),
      };
      const reply = await ask("ListQueues", input) as { QueueUrls?: string[]; NextToken?: string };
      for (const url of reply.QueueUrls ?? []) urls.set(url.slice(url.lastIndexOf("/") + 1), url);
      token = reply.NextToken;
    } while (token);
    const groups: GroupAddress[] = [];
    for (const [name, queueUrl] of urls) {
      const owner = ownerOf(prefix, name, fifo);
      const deadQueueUrl = owner && urls.get(owner.dead);
      if (owner?.queue === name && deadQueueUrl) {
        groups.push({ topic: owner.topic, group: owner.group, queueUrl, deadQueueUrl });
      }
    }
    return groups;
  }

  async function all(): Promise<readonly GroupAddress[]> {
    return [...Object.keys(routes).flatMap((topic) => routed(topic) ?? []), ...await list(allTopics(prefix))];
  }

  async function find(topic: string, group: string): Promise<GroupAddress | undefined> {
    const fixed = routed(topic);
    if (fixed) return fixed.find((candidate) => candidate.group === group);
    const names = groupQueues(prefix, topic, group, fifo);
    const [queueUrl, deadQueueUrl] = await Promise.all([names.queue, names.dead].map(urlOf));
    return queueUrl && deadQueueUrl ? { topic, group, queueUrl, deadQueueUrl } : undefined;
  }

  async function ensure(topic: string, group: string): Promise<GroupAddress> {
    const found = await find(topic, group);
    if (found) return found;
    if (!context.create || Object.hasOwn(routes, topic)) {
      throw new MillstreamError(
        "NOT_FOUND",
        `Cannot use group "${group}" of topic "${topic}": it has no queues, and none may be created`,
        { details: { topic, group } },
      );
    }
    const made = await make(groupQueues(prefix, topic, group, fifo));
    known.delete(topic);
    await sleep(clock, refreshMs);
    return made;
  }

  /** The dead-letter queue first: a queue that is there has one. */
  async function make({ topic, group, queue, dead }: GroupQueues): Promise<GroupAddress> {
    const common = { MessageRetentionPeriod: String(RETENTION_S), ...(fifo ? { FifoQueue: "true" } : {}) };
    const deadQueueUrl = await createQueue(dead, common);
    const policy = context.maxReceives === undefined
      ? {}
      : { RedrivePolicy: await redrivePolicy(deadQueueUrl) };
    const queueUrl = await createQueue(queue, { ...common, ...policy, ...context.attributes });
    return { topic, group, queueUrl, deadQueueUrl };
  }

  async function redrivePolicy(QueueUrl: string): Promise<string> {
    const reply = await ask("GetQueueAttributes", { QueueUrl, AttributeNames: ["QueueArn"] });
    const { QueueArn } = (reply as { Attributes: Record<string, string> }).Attributes;
    return JSON.stringify({ deadLetterTargetArn: QueueArn, maxReceiveCount: String(context.maxReceives) });
  }

  async function createQueue(
    QueueName: string,
    Attributes: Readonly<Record<string, string>>,
  ): Promise<string> {
    try {
      return (await ask("CreateQueue", { QueueName, Attributes }) as { QueueUrl: string }).QueueUrl;
    } catch (error) {
      // Somebody made it meanwhile with other attributes: that is theirs to say.
      const there = await urlOf(QueueName).catch(() => undefined);
      if (there) return there;
      throw error;
    }
  }

  async function urlOf(QueueName: string): Promise<string | undefined> {
    try {
      return (await ask("GetQueueUrl", { QueueName }) as { QueueUrl: string }).QueueUrl;
    } catch (error) {
      if (isMillstreamError(error, "NOT_FOUND")) return undefined;
      throw error;
    }
  }

  async function ask(action: string, input: Readonly<Record<string, unknown>>): Promise<unknown> {
    return await call(action, input).catch((error) => {
      throw asSqsError(action, error);
    });
  }

  return { groupsOf, all, find, ensure };
}
