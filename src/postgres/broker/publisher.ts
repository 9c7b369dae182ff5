/**
 * Publishing on Postgres. What is published to a topic in the same tick, or while a statement of that topic is under
 * way, goes out as one statement and one commit: 32 callers wait for the disk once, not 32 times. The first caller
 * waits for nobody.
 *
 * @module
 */
import { checkRange } from "../../core/backoff.ts";
import { aborted } from "../../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../core/errors.ts";
import type { EncodedMessage } from "../../core/message.ts";
import { checkName, checkText } from "../../core/names.ts";
import type { Publisher, PublishOptions } from "../../ports/broker.ts";
import { checkSignal, columns } from "../context.ts";
import type { BrokerContext } from "./context.ts";

/** A year: delays are times to wait, not dates. */
export const MAX_DELAY_MS: number = 366 * 86_400_000;

/** Bounds of a statement that several callers share. What one caller publishes at once always stays together. */
const MESSAGES_PER_STATEMENT = 1_000;
const CHARACTERS_PER_STATEMENT = 4_000_000;

/** What one caller publishes. */
interface Parcel {
  readonly messages: readonly EncodedMessage[];
  readonly characters: number;
  settle(error?: unknown): void;
}

/** A topic with a statement under way. One at a time: calls of this process are stored in the order they were made. */
interface Lane {
  readonly waiting: Parcel[];
}

/** A {@linkcode Publisher} that can be drained. */
export interface DrainingPublisher extends Publisher {
  /** Resolves when nothing is under way. */
  drained(): Promise<void>;
}

/** Creates the publisher of a broker. */
export function publisher({ session, schema, bells }: BrokerContext): DrainingPublisher {
  const lanes = new Map<string, Lane>();
  const underWay = new Set<Promise<void>>();

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, signal }: PublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    for (const message of messages) checkMessage(message);
    checkSignal(signal);
    if (messages.length === 0) return;
    await track(delayMs > 0 ? store(topic, messages, delayMs) : send(topic, messages, signal));
  }

  function track(work: Promise<void>): Promise<void> {
    underWay.add(work);
    work.catch(() => {}).finally(() => underWay.delete(work));
    return work;
  }

  function send(
    topic: string,
    messages: readonly EncodedMessage[],
    signal: AbortSignal | undefined,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      const known = lanes.get(topic);
      const lane: Lane = known ?? { waiting: [] };
      const onAbort = (): void => {
        const place = lane.waiting.indexOf(parcel);
        if (place < 0) return; // sent: its outcome must be awaited
        lane.waiting.splice(place, 1);
        parcel.settle(aborted(signal));
      };
      const parcel: Parcel = {
        messages,
        characters: messages.reduce((sum, { body }) => sum + body.length, 0),
        settle(error) {
          signal?.removeEventListener("abort", onAbort);
          if (error === undefined) resolve();
          else reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      lane.waiting.push(parcel);
      if (known) return;
      lanes.set(topic, lane);
      queueMicrotask(() => void sendAll(topic, lane));
    });
  }

  async function sendAll(topic: string, lane: Lane): Promise<void> {
    while (lane.waiting.length > 0) await sendTogether(topic, takeParcels(lane.waiting));
    lanes.delete(topic); // in the same job as the last look: what comes later begins anew
  }

  async function sendTogether(topic: string, parcels: readonly Parcel[]): Promise<void> {
    try {
      await store(topic, parcels.flatMap(({ messages }) => messages), 0);
      for (const parcel of parcels) parcel.settle();
    } catch (error) {
      // One caller's message that the server refuses is not the fault of the others: nothing was accepted yet.
      const alone = parcels.length > 1 && isMillstreamError(error) && !error.retryable;
      if (alone) { for (const parcel of parcels) await sendTogether(topic, [parcel]); }
      else for (const parcel of parcels) parcel.settle(error);
    }
  }

  async function store(topic: string, messages: readonly EncodedMessage[], delayMs: number): Promise<void> {
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

  return {
    publish,
    async drained() {
      while (underWay.size > 0) await Promise.allSettled(underWay);
    },
  };
}

/** `$1` topic; `$2` ids, `$3` types, `$4` keys, `$5` bodies; `$6` delay in milliseconds. */
const publishSql = (schema: string): string =>
  `select ${schema}.publish($1::text, $2::text[], $3::text[], $4::text[], $5::text[], $6::float8)`;

/** Takes from the front what fits into one statement, at least one. */
function takeParcels(waiting: Parcel[]): readonly Parcel[] {
  let [count, messages, characters] = [0, 0, 0];
  for (const parcel of waiting) {
    messages += parcel.messages.length;
    characters += parcel.characters;
    if (count > 0 && (messages > MESSAGES_PER_STATEMENT || characters > CHARACTERS_PER_STATEMENT)) break;
    count++;
  }
  return waiting.splice(0, count);
}

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
