/**
 * Publishing: calls that come at the same time travel together, one append at a time for each topic.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import type { BindingMode } from "../../src/core/binding.ts";
import { aborted, type Clock } from "../../src/core/clock.ts";
import { isMillstreamError, MillstreamError, toError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import { checkName } from "../../src/core/names.ts";
import type { Publisher, PublishOptions } from "../../src/ports/broker.ts";
import type { KafkaDriver, NewRecord } from "./driver.ts";
import { partitionOf } from "./partitioner.ts";
import { toRecord } from "./record.ts";

/** What publishing needs. */
export interface PublisherContext {
  readonly driver: KafkaDriver;
  readonly clock: Clock;
  readonly mode: BindingMode;
  readonly maxMessageBytes: number;
  /** The number of partitions of a topic, which comes into being if need be. */
  partitions(topic: string): Promise<number>;
}

/** A {@linkcode Publisher} that can be drained. */
export interface DrainingPublisher extends Publisher {
  /** Resolves when nothing is under way. */
  drained(): Promise<void>;
}

/** What one append takes: brokers refuse a batch larger than a message may be, and a batch is never larger than all. */
const MAX_RECORDS = 5_000;
/** Messages without a key that stay together, so that batches are worth their name. */
const RUN = 50;
const MAX_DELAY_MS = 30 * 86_400_000;
const HEADERS_BYTES = 1_000;
/** For how long calls do not share appends after one of them was refused. */
const ALONE_MS = 10_000;

interface Parcel {
  readonly records: readonly NewRecord[];
  readonly bytes: number;
  readonly settle: (error?: Error) => void;
}

interface Lane {
  readonly waiting: Parcel[];
  running: boolean;
}

/** Creates the publisher of a broker. */
export function createPublisher(context: PublisherContext): DrainingPublisher {
  const { driver, clock, mode, maxMessageBytes } = context;
  const lanes = new Map<string, Lane>();
  const underway = new Set<Promise<void>>();
  let turn = 0;
  let aloneUntil = 0;

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, signal }: PublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    if (signal?.aborted) throw aborted(signal);
    if (messages.length === 0) return;
    const sizes = messages.map((message) => checkedSize(message, maxMessageBytes));
    const work = send(topic, messages, sizes, delayMs > 0 ? clock.now() + delayMs : 0);
    underway.add(work);
    try {
      await work;
    } finally {
      underway.delete(work);
    }
  }

  async function send(
    topic: string,
    messages: readonly EncodedMessage[],
    sizes: readonly number[],
    notBefore: number,
  ): Promise<void> {
    const partitions = await context.partitions(topic);
    let run = turn++;
    const records = messages.map((message, index) => {
      if (index > 0 && index % RUN === 0) run = turn++;
      const partition = message.key === undefined ? run % partitions : partitionOf(message.key, partitions);
      return toRecord(message, { topic, partition }, mode, { notBefore });
    });
    const parcels: Array<Promise<void>> = [];
    for (const [from, to, bytes] of cut(sizes, maxMessageBytes)) {
      parcels.push(
        new Promise<void>((resolve, reject) => {
          const settle = (error?: Error): void => error ? reject(error) : resolve();
          enqueue(topic, { records: records.slice(from, to), bytes, settle });
        }),
      );
    }
    const outcomes = await Promise.allSettled(parcels);
    const failed = outcomes.filter((outcome) => outcome.status === "rejected");
    if (failed.length === 0) return;
    const error = toError(failed[0]!.reason);
    throw failed.length < outcomes.length ? halfway(topic, error) : error;
  }

  function enqueue(topic: string, parcel: Parcel): void {
    let lane = lanes.get(topic);
    if (!lane) lanes.set(topic, lane = { waiting: [], running: false });
    lane.waiting.push(parcel);
    if (lane.running) return;
    lane.running = true;
    queueMicrotask(() => void drain(topic, lane));
  }

  async function drain(topic: string, lane: Lane): Promise<void> {
    while (lane.waiting.length > 0) {
      const parcels = takeParcels(lane.waiting, clock.monotonic() < aloneUntil ? 0 : maxMessageBytes);
      try {
        await driver.append(parcels.flatMap(({ records }) => records));
        for (const { settle } of parcels) settle();
      } catch (thrown) {
        await failAll(parcels, toError(thrown));
      }
    }
    lanes.delete(topic);
  }

  /**
   * Parcels that travelled together must not fail for each other's faults. What was refused as a whole is sent again
   * one by one. Where a part may have been accepted nothing is: the callers decide, and travel alone for a while.
   */
  async function failAll(parcels: readonly Parcel[], error: Error): Promise<void> {
    if ((error as Partial<MillstreamError>).details?.refused) aloneUntil = clock.monotonic() + ALONE_MS;
    const fault = isMillstreamError(error, "PAYLOAD_TOO_LARGE");
    if (!fault || parcels.length === 1) {
      for (const { settle } of parcels) settle(error);
      return;
    }
    for (const { records, settle } of parcels) {
      await driver.append(records).then(() => settle(), (thrown) => settle(toError(thrown)));
    }
  }

  return {
    publish,
    async drained() {
      while (underway.size > 0) await Promise.allSettled(underway);
    },
  };
}

function checkedSize({ id, body }: EncodedMessage, max: number): number {
  const bytes = HEADERS_BYTES +
    (body.length * 3 <= max ? body.length * 3 : new TextEncoder().encode(body).length);
  if (bytes <= max) return bytes;
  throw new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot publish message "${id}": ${bytes} bytes, option "maxMessageBytes" is ${max}`,
    { details: { bytes, maxBytes: max } },
  );
}

/** Cuts a call into parcels that fit into one batch each: from, to, bytes. */
function cut(sizes: readonly number[], maxBytes: number): ReadonlyArray<readonly [number, number, number]> {
  const parcels: Array<readonly [number, number, number]> = [];
  let from = 0;
  let bytes = 0;
  for (const [index, size] of sizes.entries()) {
    if (index > from && (bytes + size > maxBytes || index - from >= MAX_RECORDS)) {
      parcels.push([from, index, bytes]);
      from = index;
      bytes = 0;
    }
    bytes += size;
  }
  parcels.push([from, sizes.length, bytes]);
  return parcels;
}

/** Takes from the front what fits into one append, at least one. */
function takeParcels(waiting: Parcel[], maxBytes: number): readonly Parcel[] {
  let count = 0;
  let bytes = 0;
  let records = 0;
  for (const parcel of waiting) {
    bytes += parcel.bytes;
    records += parcel.records.length;
    if (count > 0 && (bytes > maxBytes || records > MAX_RECORDS)) break;
    count++;
  }
  return waiting.splice(0, count);
}

function halfway(topic: string, cause: Error): MillstreamError {
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot publish all messages to topic "${topic}": some were accepted. Publish again with the same ids`,
    { cause, details: { topic } },
  );
}
