/**
 * Sending to one queue: messages that come at the same time travel together, ten at a time.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";
import type { SqsCall } from "./client.ts";
import { asSendError, entryError, type FailedEntry } from "./failures.ts";
import type { SqsContent } from "./message.ts";

/** A message to send. */
export interface Letter extends SqsContent {
  readonly bytes: number;
  readonly DelaySeconds?: number;
  readonly MessageGroupId?: string;
  readonly MessageDeduplicationId?: string;
}

/** Sends to the queue at `queueUrl`. Resolves when SQS has it; rejects for this one alone. */
export type Sender = (queueUrl: string, letter: Letter) => Promise<void>;

const MAX_ENTRIES = 10;

interface Waiting {
  readonly letter: Letter;
  settle(error?: Error): void;
}

interface Lane {
  readonly waiting: Waiting[];
  calls: number;
  planned: boolean;
}

/**
 * Creates a {@linkcode Sender}.
 *
 * @param atOnce How many calls for one queue may be under way: 1 keeps the order.
 * @param maxBytes The most that one call may carry.
 */
export function createSender(call: SqsCall, atOnce: number, maxBytes: number): Sender {
  const lanes = new Map<string, Lane>();

  function send(queueUrl: string, letter: Letter): Promise<void> {
    return new Promise((resolve, reject) => {
      let lane = lanes.get(queueUrl);
      if (!lane) lanes.set(queueUrl, lane = { waiting: [], calls: 0, planned: false });
      lane.waiting.push({ letter, settle: (error) => error ? reject(error) : resolve() });
      plan(queueUrl, lane);
    });
  }

  function plan(queueUrl: string, lane: Lane): void {
    if (lane.planned || lane.calls >= atOnce) return;
    lane.planned = true;
    queueMicrotask(() => {
      lane.planned = false;
      while (lane.calls < atOnce && lane.waiting.length > 0) void flush(queueUrl, lane);
    });
  }

  async function flush(queueUrl: string, lane: Lane): Promise<void> {
    const batch = takeBatch(lane.waiting, maxBytes);
    lane.calls++;
    await deliver(queueUrl, batch);
    lane.calls--;
    if (lane.waiting.length > 0) plan(queueUrl, lane);
    else if (lane.calls === 0 && !lane.planned) lanes.delete(queueUrl);
  }

  async function deliver(QueueUrl: string, batch: readonly Waiting[]): Promise<void> {
    const Entries = batch.map(({ letter: { bytes: _bytes, ...entry } }, index) => ({
      Id: String(index),
      ...entry,
    }));
    try {
      const reply = await call("SendMessageBatch", { QueueUrl, Entries }) as {
        Failed?: FailedEntry[];
        Successful?: { Id: string }[];
      };
      const failed = new Map((reply.Failed ?? []).map((entry) => [entry.Id, entry]));
      const done = new Set((reply.Successful ?? []).map(({ Id }) => Id));
      for (const [index, { settle }] of batch.entries()) {
        const entry = failed.get(String(index));
        if (entry) settle(entryError("publish", entry));
        else settle(done.has(String(index)) ? undefined : unmentioned(QueueUrl));
      }
    } catch (thrown) {
      const error = asSendError(QueueUrl.slice(QueueUrl.lastIndexOf("/") + 1), thrown);
      for (const { settle } of batch) settle(error);
    }
  }

  return send;
}

function takeBatch(waiting: Waiting[], maxBytes: number): readonly Waiting[] {
  let count = 0;
  let bytes = 0;
  for (const { letter } of waiting) {
    bytes += letter.bytes;
    if (count > 0 && (bytes > maxBytes || count === MAX_ENTRIES)) break;
    count++;
  }
  return waiting.splice(0, count);
}

function unmentioned(queueUrl: string): MillstreamError {
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot tell whether ${queueUrl} accepted a message: the answer does not mention it. Publish again with the same id`,
  );
}
