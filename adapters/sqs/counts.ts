/**
 * How many messages a queue has. SQS calls all of these approximate.
 *
 * @module
 */
import type { SqsCall } from "./client.ts";
import { asSqsError } from "./failures.ts";

/** Counts of one queue. */
export interface QueueCounts {
  readonly ready: number;
  readonly inFlight: number;
  readonly delayed: number;
}

const NAMES = [
  "ApproximateNumberOfMessages",
  "ApproximateNumberOfMessagesNotVisible",
  "ApproximateNumberOfMessagesDelayed",
] as const;

/** The counts of the queue at `QueueUrl`. */
export async function countQueue(call: SqsCall, QueueUrl: string): Promise<QueueCounts> {
  const reply = await call("GetQueueAttributes", { QueueUrl, AttributeNames: NAMES }).catch((error) => {
    throw asSqsError("GetQueueAttributes", error);
  });
  const { Attributes = {} } = reply as { Attributes?: Record<string, string> };
  const [ready = 0, inFlight = 0, delayed = 0] = NAMES.map((name) => Number(Attributes[name] ?? 0));
  return { ready, inFlight, delayed };
}
