/**
 * Calls about messages that were received, ten at a time.
 *
 * @module
 */
import type { SqsCall } from "./client.ts";
import { asSqsError, entryError, type FailedEntry } from "./failures.ts";
import type { SqsMessage } from "./message.ts";

/** Receives up to 10 messages. */
export async function receive(
  call: SqsCall,
  queueUrl: string,
  options: {
    readonly max: number;
    readonly leaseS: number;
    readonly waitS: number;
    readonly signal?: AbortSignal;
  },
): Promise<readonly SqsMessage[]> {
  const { max, leaseS, waitS, signal } = options;
  const input = {
    QueueUrl: queueUrl,
    MaxNumberOfMessages: Math.min(10, max),
    VisibilityTimeout: leaseS,
    WaitTimeSeconds: waitS,
    AttributeNames: ["All"],
    MessageAttributeNames: ["All"],
  };
  const reply = await call("ReceiveMessage", input, signal ? { signal } : {}).catch((error) => {
    throw asSqsError("receive", error);
  });
  return (reply as { Messages?: SqsMessage[] }).Messages ?? [];
}

/** Deletes. Returns the handles that are no longer good. */
export async function deleteAll(
  call: SqsCall,
  queueUrl: string,
  handles: readonly string[],
): Promise<ReadonlySet<string>> {
  return await inTens(handles, "DeleteMessageBatch", (ReceiptHandle) => ({ ReceiptHandle }), call, queueUrl);
}

/** Hides for so many seconds from now, 0 for not at all. Returns the handles that are no longer good. */
export async function hideAll(
  call: SqsCall,
  queueUrl: string,
  handles: readonly string[],
  VisibilityTimeout: number,
): Promise<ReadonlySet<string>> {
  const entry = (ReceiptHandle: string) => ({ ReceiptHandle, VisibilityTimeout });
  return await inTens(handles, "ChangeMessageVisibilityBatch", entry, call, queueUrl);
}

async function inTens(
  handles: readonly string[],
  action: string,
  toEntry: (handle: string) => object,
  call: SqsCall,
  QueueUrl: string,
): Promise<ReadonlySet<string>> {
  const stale = new Set<string>();
  const calls: Array<Promise<void>> = [];
  for (let from = 0; from < handles.length; from += 10) calls.push(ten(handles.slice(from, from + 10)));
  const outcomes = await Promise.allSettled(calls);
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
  return stale;

  async function ten(some: readonly string[]): Promise<void> {
    const Entries = some.map((handle, index) => ({ Id: String(index), ...toEntry(handle) }));
    const reply = await call(action, { QueueUrl, Entries }).catch((error) => {
      throw asSqsError(action, error);
    });
    for (const entry of (reply as { Failed?: FailedEntry[] }).Failed ?? []) {
      if (!/ReceiptHandle|NotInflight|InvalidParameterValue/.test(entry.Code)) {
        throw entryError(action, entry);
      }
      stale.add(some[Number(entry.Id)]!);
    }
  }
}
