/**
 * The broker for those who have Postgres only: topics, consumer groups, delays, dead letters and a log, with every
 * operation one statement.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { checkName } from "../../core/names.ts";
import type { Broker, BrokerFeatures, SubscribeOptions, Subscription } from "../../ports/broker.ts";
import type { SqlSession } from "../../ports/sql.ts";
import { checkStartFrom } from "../../ports/start_from.ts";
import { type BrokerContext, checkOpen } from "./context.ts";
import { deadLetters } from "./dead_letters.ts";
import { groups } from "./groups.ts";
import { MAX_DELAY_MS, publisher } from "./publisher.ts";
import { scheduled } from "./scheduled.ts";
import { subscribe } from "./subscription.ts";
import { topicLog } from "./topic_log.ts";

const FEATURES: BrokerFeatures = {
  name: "postgres",
  persistent: true,
  replay: true,
  keyOrder: true,
  delay: true,
  deduplicates: true,
  fencedAck: true,
  replaySince: true,
  countsStarts: true,
  listsGroups: true,
  reschedules: true,
  reasons: {},
};

/**
 * A broker on the tables of migration 2. A published message is as durable as any commit of the server. The same id
 * is recognised for as long as the topic keeps the message.
 */
export function postgresBroker(context: BrokerContext): Broker {
  const publishing = publisher(context);
  const subscriptions = new Set<Subscription>();
  let closed: Promise<void> | undefined;
  // Everything but the consumers, which still hand back what they hold, goes through here.
  const session: SqlSession = {
    async query(text, values) {
      checkOpen(closed === undefined);
      return await context.session.query(text, values);
    },
  };

  async function join(topic: string, group: string, options: SubscribeOptions = {}): Promise<Subscription> {
    checkName("topic", topic);
    checkName("group", group);
    checkRange("leaseMs", options.leaseMs ?? 30_000, 1, MAX_DELAY_MS);
    checkStartFrom(options.from ?? "start", FEATURES);
    checkOpen(closed === undefined);
    const subscription = await subscribe(context, topic, group, {
      ...options,
      onClosed: () => subscriptions.delete(subscription),
    });
    subscriptions.add(subscription);
    return subscription;
  }

  async function ping(): Promise<void> {
    checkOpen(closed === undefined);
    await context.ping();
  }

  async function close(): Promise<void> {
    await publishing.drained();
    await Promise.all([...subscriptions].map((subscription) => subscription[Symbol.asyncDispose]()));
  }

  return {
    features: FEATURES,
    async publish(...call) {
      checkOpen(closed === undefined);
      await publishing.publish(...call);
    },
    subscribe: join,
    deadLetters: deadLetters({ ...context, session }),
    log: topicLog({ ...context, session }),
    scheduled: scheduled({ ...context, session }),
    groups: (filter) => groups({ ...context, session }, filter),
    ping,
    [Symbol.asyncDispose]: () => closed ??= close(),
  };
}
