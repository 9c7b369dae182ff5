/**
 * Messages as Kafka records, by the CloudEvents Kafka binding: attributes are headers that begin with `ce_`, the content
 * type is the header `content-type`, and the partition key is the record's key.
 * https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
 *
 * @module
 */
import { type BindingMode, bindMessage, unbindMessage } from "../../src/core/binding.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { KafkaRecord, NewRecord, TopicPartition } from "./driver.ts";

const PREFIX = "ce_";
const CONTENT_TYPE = "content-type";
const NOT_BEFORE = "millstream-not-before";
const REDRIVES = "millstream-redrives";

/** What a record says besides the message. */
export interface RecordNotes {
  /** Not to be handed out before, in milliseconds since 1970; 0 if at once. */
  readonly notBefore?: number;
  /** How often the message was redriven. */
  readonly redrives?: number;
}

/** The record of a message. */
export function toRecord(
  message: EncodedMessage,
  { topic, partition }: TopicPartition,
  mode: BindingMode,
  { notBefore = 0, redrives = 0 }: RecordNotes = {},
): NewRecord {
  const { attributes, contentType, body } = bindMessage(message, mode);
  const headers: Record<string, string> = { [CONTENT_TYPE]: contentType };
  for (const [name, value] of Object.entries(attributes)) headers[PREFIX + name] = value;
  if (notBefore > 0) headers[NOT_BEFORE] = String(Math.ceil(notBefore));
  if (redrives > 0) headers[REDRIVES] = String(redrives);
  return { topic, partition, key: message.key ?? null, value: body, headers };
}

/** The message of a record, whoever wrote it. Its place in Kafka is the id of what brings none. */
export function fromRecord(record: KafkaRecord): EncodedMessage {
  const { topic, partition, offset, key, value, headers } = record;
  const attributes: Record<string, string> = Object.create(null); // a header may be called ce___proto__
  for (const [name, text] of Object.entries(headers)) {
    if (name.startsWith(PREFIX)) attributes[name.slice(PREFIX.length)] = text;
  }
  if (key !== null && key !== "") attributes.partitionkey ??= key;
  const contentType = headers[CONTENT_TYPE] ?? headers["Content-Type"];
  const message = unbindMessage(
    { contentType, attributes, body: value ?? "" },
    `${topic}-${partition}-${offset}`,
  );
  return message.key === undefined && key ? { ...message, key } : message;
}

/** What a record says besides its message. */
export function notesOf({ headers }: KafkaRecord): Required<RecordNotes> {
  return { notBefore: Number(headers[NOT_BEFORE] ?? 0) || 0, redrives: Number(headers[REDRIVES] ?? 0) || 0 };
}
