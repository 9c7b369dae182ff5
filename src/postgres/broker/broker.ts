/**
 * The broker for those who have Postgres only: topics, consumer groups, delays, dead letters and a log, with every
 * operation one statement.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { isMillstreamError, MillstreamError } from "../../core/errors.ts";
import { checkName, checkText } from "../../core/names.ts";
import type { EncodedMessage } from "../../core/message.ts";
import type {
  Broker,
  BrokerFeatures,
  PublishOptions,
  SubscribeOptions,
  Subscription,
} from "../../ports/broker.ts";
import type { SqlSession } from "../../ports/sql.ts";
import { checkStartFrom } from "../../ports/start_from.ts";
import { checkSignal, columns } from "../context.ts";
import { type BrokerContext, checkOpen } from "./context.ts";
import { deadLetters } from "./dead_letters.ts";
import { groups } from "./groups.ts";
import { scheduled } from "./scheduled.ts";
import { subscribe } from "./subscription.ts";
import { topicLog } from "./topic_log.ts";

/** A year: delays are times to wait, not dates. */
const MAX_DELAY_MS = 366 * 86_400_000;

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
  const { schema, bells } = context;
  const subscriptions = new Set<Subscription>();
  let closed: Promise<void> | undefined;
  // Everything but the consumers, which still hand back what they hold, goes through here.
  const session: SqlSession = {
    async query(text, values) {
      checkOpen(closed === undefined);
      return await context.session.query(text, values);
    },
  };

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    options: PublishOptions = {},
  ): Promise<void> {
    const { delayMs = 0, signal } = options;
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    for (const message of messages) checkMessage(message);
    checkSignal(signal);
    if (messages.length === 0) return;
    const [ids, types, keys, bodies] = columns(
      messages,
      (m) => m.id,
      (m) => m.type,
      (m) => m.key,
      (m) => m.body,
    );
    try {
      await session.query(publishSql(schema), [topic, ids, types, keys, bodies, delayMs]);
    } catch (error) {
      throw asPublishError(error, topic);
    }
    bells.ring(topic);
  }

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
    await Promise.all([...subscriptions].map((subscription) => subscription[Symbol.asyncDispose]()));
  }

  return {
    features: FEATURES,
    publish,
    subscribe: join,
    deadLetters: deadLetters({ ...context, session }),
    log: topicLog({ ...context, session }),
    scheduled: scheduled({ ...context, session }, MAX_DELAY_MS),
    groups: (filter) => groups({ ...context, session }, filter),
    ping,
    [Symbol.asyncDispose]: () => closed ??= close(),
  };
}

/** `$1` topic; `$2` ids, `$3` types, `$4` keys, `$5` bodies; `$6` delay in milliseconds. */
const publishSql = (schema: string): string =>
  `select ${schema}.publish($1::text, $2::text[], $3::text[], $4::text[], $5::text[], $6::float8)`;

function checkMessage({ id, type, key, body }: EncodedMessage): void {
  checkText("message id", id, 512);
  checkText("message type", type, 512);
  if (key !== undefined) checkText("key", key, 512);
  if (typeof body !== "string") {
    throw new MillstreamError("INVALID_ARGUMENT", "Cannot publish: body must be text");
  }
}

function asPublishError(error: unknown, topic: string): unknown {
  if (!isMillstreamError(error, "COMMIT_INDETERMINATE", "DEADLINE_EXCEEDED")) return error;
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot say whether the messages for topic "${topic}" were accepted: publish them again with the same ids`,
    { cause: error, details: { topic } },
  );
}
