/**
 * An entry point for AWS Lambda, which receives and deletes by itself.
 *
 * @module
 */
import type { EncodedMessage } from "../../src/core/message.ts";
import { fromSqs, notesOf } from "./message.ts";

/** What Lambda passes to a function that an SQS queue triggers, of what is used here. */
export interface LambdaSqsEvent {
  readonly Records: ReadonlyArray<{
    readonly messageId: string;
    readonly receiptHandle: string;
    readonly body: string;
    readonly attributes?: Readonly<Record<string, string>>;
    readonly messageAttributes?: Readonly<
      Record<string, { readonly stringValue?: string | undefined; readonly dataType: string }>
    >;
  }>;
}

/** What the function returns. The trigger must have `ReportBatchItemFailures` among its `FunctionResponseTypes`. */
export interface LambdaSqsResponse {
  readonly batchItemFailures: ReadonlyArray<{ readonly itemIdentifier: string }>;
}

/** A message as Lambda hands it out. */
export interface LambdaMessage extends EncodedMessage {
  /** 1 for the first try. */
  readonly attempt: number;
}

/**
 * Handles the messages of a batch and says which failed: those come again, and SQS's own redrive policy gives them up.
 * Messages of one FIFO group are handled in order; when one fails, its followers are failed unhandled.
 *
 * @param handle Handles one message, or rejects.
 *
 * @example
 * ```ts ignore
 * export const handler = (event) => handleSqsEvent(event, async ({ body }) => { ... });
 * ```
 */
export async function handleSqsEvent(
  { Records }: LambdaSqsEvent,
  handle: (message: LambdaMessage) => Promise<unknown>,
): Promise<LambdaSqsResponse> {
  const lanes = new Map<string, Array<LambdaSqsEvent["Records"][number]>>();
  for (const record of Records) {
    const lane = record.attributes?.MessageGroupId ?? record.messageId;
    lanes.set(lane, [...lanes.get(lane) ?? [], record]);
  }
  const failed = new Set<string>();
  await Promise.all([...lanes.values()].map(async (lane) => {
    for (const [index, record] of lane.entries()) {
      try {
        await handle(toMessage(record));
      } catch {
        for (const { messageId } of lane.slice(index)) failed.add(messageId);
        return;
      }
    }
  }));
  return { batchItemFailures: Array.from(failed, (itemIdentifier) => ({ itemIdentifier })) };
}

function toMessage(
  { messageId, receiptHandle, body, attributes = {}, messageAttributes = {} }:
    LambdaSqsEvent["Records"][number],
): LambdaMessage {
  const named = Object.entries(messageAttributes).map((
    [name, { stringValue, dataType }],
  ) => [
    name,
    stringValue === undefined ? { DataType: dataType } : { DataType: dataType, StringValue: stringValue },
  ]);
  const message = {
    MessageId: messageId,
    ReceiptHandle: receiptHandle,
    Body: body,
    Attributes: attributes,
    MessageAttributes: Object.fromEntries(named),
  };
  const received = Number(attributes.ApproximateReceiveCount ?? 1) || 1;
  return { ...fromSqs(message), attempt: notesOf(message).attempt + received - 1 };
}
