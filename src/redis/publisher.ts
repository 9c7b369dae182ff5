/**
 * Publishing. What callers publish to a topic in the same tick goes out as one script call: many entries in one call
 * cost the server and this process less than one call each. The first caller waits for nobody: it is sent at the end
 * of the tick. While two calls of a topic are under way, later ones gather until one of them returns.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { aborted, type Clock } from "../core/clock.ts";
import { describe, isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { EncodedMessage } from "../core/message.ts";
import { checkName } from "../core/names.ts";
import type { Publisher, PublishOptions } from "../ports/broker.ts";
import type { RedisArgument, RedisConnection, RedisScript } from "../ports/redis.ts";
import type { Confirmations, Durability } from "./durability.ts";
import { encodeHeader } from "./entry.ts";
import { topicKeys } from "./keys.ts";
import { PUBLISH, PUBLISH_LATER } from "./lua/publish.ts";

/** What {@linkcode publisher} needs. */
export interface PublisherContext {
  readonly connection: RedisConnection;
  readonly clock: Clock;
  readonly prefix: string;
  readonly timeoutMs: number;
  readonly dedupWindowMs: number;
  readonly durability: Durability;
  readonly confirmations: Confirmations;
  /** Called when delayed messages of a topic will be due in so many milliseconds. */
  readonly delayed: (topic: string, delayMs: number) => void;
}

/** Ids remembered per set and topic; there are two sets. Bounds the memory of deduplication to about 50 MB a topic. */
export const IDS_PER_SET = 262_144;

/** Bounds of one script call: while it runs, the server does nothing else. */
const MESSAGES_PER_CALL = 1_000;
const CHARACTERS_PER_CALL = 4_000_000;
const CALLS_AT_ONCE = 2;
/** The longest delay, in milliseconds. */
export const MAX_DELAY_MS: number = 366 * 86_400_000;

/** Options of publishing on Redis. */
export interface RedisPublishOptions extends PublishOptions {
  /** When these messages count as published. @default what the broker was created with */
  readonly durability?: Durability;
}

/** Messages of one caller, checked and ready to send. */
interface Parcel {
  /** Header and body in turn. */
  readonly args: readonly string[];
  readonly characters: number;
  readonly deadline: number;
  readonly settle: (error?: unknown) => void;
}

/** A topic with calls under way, apart for each durability. */
interface Lane {
  readonly topic: string;
  readonly durability: Durability;
  readonly waiting: Parcel[];
  calls: number;
  scheduled: boolean;
}

/** A {@linkcode Publisher} that can be drained. */
export interface DrainingPublisher extends Publisher {
  publish(topic: string, messages: readonly EncodedMessage[], options?: RedisPublishOptions): Promise<void>;
  /** Resolves when nothing is under way. */
  drained(): Promise<void>;
}

/** Creates the publisher of a broker. */
export function publisher(context: PublisherContext): DrainingPublisher {
  const { connection, clock, prefix, timeoutMs, dedupWindowMs } = context;
  const lanes = new Map<string, Lane>();
  const underway = new Set<Promise<void>>();

  async function publish(
    topic: string,
    messages: readonly EncodedMessage[],
    { delayMs = 0, durability = context.durability, signal }: RedisPublishOptions = {},
  ): Promise<void> {
    checkName("topic", topic);
    checkRange("delayMs", delayMs, 0, MAX_DELAY_MS);
    checkDurability(durability);
    const loads = packed(messages);
    if (signal?.aborted) throw aborted(signal);
    const deadline = clock.monotonic() + timeoutMs;
    for (const [index, load] of loads.entries()) {
      try {
        const lane = laneOf(topic, durability);
        await track(
          delayMs > 0 ? sendLater(lane, load, delayMs, deadline) : send(lane, load, deadline, signal),
        );
      } catch (error) {
        throw index === 0 ? error : halfway(topic, error);
      }
    }
  }

  function track(work: Promise<void>): Promise<void> {
    underway.add(work);
    work.catch(() => {}).finally(() => underway.delete(work));
    return work;
  }

  function send(lane: Lane, load: Load, deadline: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        const place = lane.waiting.indexOf(parcel);
        if (place < 0) return; // sent: its outcome must be awaited
        lane.waiting.splice(place, 1);
        parcel.settle(aborted(signal));
      };
      const parcel: Parcel = {
        ...load,
        deadline,
        settle(error) {
          signal?.removeEventListener("abort", onAbort);
          if (error === undefined) resolve();
          else reject(error);
        },
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      lane.waiting.push(parcel);
      lanes.set(laneName(lane), lane);
      schedule(lane);
    });
  }

  function laneOf(topic: string, durability: Durability): Lane {
    const lane = { topic, durability, waiting: [], calls: 0, scheduled: false };
    return lanes.get(laneName(lane)) ?? lane;
  }

  function schedule(lane: Lane): void {
    if (lane.scheduled || lane.calls >= CALLS_AT_ONCE) return;
    lane.scheduled = true;
    queueMicrotask(() => {
      lane.scheduled = false;
      void flush(lane);
    });
  }

  async function flush(lane: Lane): Promise<void> {
    const parcels = takeParcels(lane.waiting);
    const [first] = parcels;
    if (first) {
      lane.calls++;
      if (lane.waiting.length > 0) schedule(lane);
      const args = parcels.length === 1 ? first.args : parcels.flatMap((parcel) => parcel.args);
      const error = await call(lane, args, first.deadline);
      lane.calls--;
      for (const parcel of parcels) parcel.settle(error);
    }
    if (lane.waiting.length > 0) schedule(lane);
    else if (lane.calls === 0 && !lane.scheduled) lanes.delete(laneName(lane));
  }

  /** Returns the error instead of throwing it: several callers share it. */
  async function call(lane: Lane, args: readonly string[], deadline: number): Promise<unknown> {
    if (deadline <= clock.monotonic()) return outOfTime(lane.topic);
    const { log, ids, olderIds } = topicKeys(prefix, lane.topic);
    try {
      await write(lane, PUBLISH, [log, ids, olderIds], [dedupWindowMs, IDS_PER_SET, ...args], deadline);
      return undefined;
    } catch (error) {
      return named(lane.topic, error);
    }
  }

  async function sendLater(lane: Lane, load: Load, delayMs: number, deadline: number): Promise<void> {
    const { delayed, ids, olderIds, delayedIds } = topicKeys(prefix, lane.topic);
    const args = [dedupWindowMs, IDS_PER_SET, Math.ceil(delayMs), ...load.args];
    try {
      await write(lane, PUBLISH_LATER, [delayed, ids, olderIds, delayedIds], args, deadline);
    } catch (error) {
      throw named(lane.topic, error);
    }
    context.delayed(lane.topic, delayMs);
  }

  async function write(
    { durability }: Lane,
    script: RedisScript,
    names: readonly string[],
    args: readonly RedisArgument[],
    deadline: number,
  ): Promise<void> {
    if (durability === "memory") {
      await connection.script(script, names, args, { timeoutMs: Math.max(1, deadline - clock.monotonic()) });
      return;
    }
    await context.confirmations.confirmed(
      durability,
      names[0] ?? "",
      deadline,
      (durable, timeoutMs) => durable.script(script, names, args, { timeoutMs }),
    );
  }

  return {
    publish,
    async drained() {
      while (underway.size > 0) await Promise.allSettled(underway);
    },
  };
}

interface Load {
  readonly args: readonly string[];
  readonly characters: number;
}

/** Checks the messages and cuts them into loads for one call each. */
function packed(messages: readonly EncodedMessage[]): readonly Load[] {
  const loads: Load[] = [];
  let args: string[] = [];
  let characters = 0;
  for (const message of messages) {
    const header = encodeHeader(message);
    const size = header.length + message.body.length;
    if (
      args.length >= 2 * MESSAGES_PER_CALL || (args.length > 0 && characters + size > CHARACTERS_PER_CALL)
    ) {
      loads.push({ args, characters });
      args = [];
      characters = 0;
    }
    args.push(header, message.body);
    characters += size;
  }
  if (args.length > 0) loads.push({ args, characters });
  return loads;
}

/** Takes from the front what fits into one call, at least one. */
function takeParcels(waiting: Parcel[]): readonly Parcel[] {
  let count = 0;
  let args = 0;
  let characters = 0;
  for (const parcel of waiting) {
    args += parcel.args.length;
    characters += parcel.characters;
    if (count > 0 && (args > 2 * MESSAGES_PER_CALL || characters > CHARACTERS_PER_CALL)) break;
    count++;
  }
  return waiting.splice(0, count);
}

/** Refuses what is no durability. */
export function checkDurability(durability: Durability): void {
  if (durability === "memory" || durability === "replicated" || durability === "fsynced") return;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "durability": expected "memory", "replicated" or "fsynced", got ${
      describe(durability)
    }`,
    { details: { option: "durability" } },
  );
}

function laneName({ topic, durability }: Lane): string {
  return `${durability} ${topic}`;
}

function named(topic: string, error: unknown): unknown {
  if (!isMillstreamError(error, "PUBLISH_INDETERMINATE")) return error;
  if (error.details.durability !== undefined) return error; // says it better
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot tell whether topic "${topic}" accepted the messages: the reply was lost. Publish again with the same ids`,
    { cause: error, details: { topic } },
  );
}

function halfway(topic: string, cause: unknown): MillstreamError {
  return new MillstreamError(
    "PUBLISH_INDETERMINATE",
    `Cannot publish all messages to topic "${topic}": the first ones were accepted. Publish again with the same ids`,
    { cause, details: { topic } },
  );
}

function outOfTime(topic: string): MillstreamError {
  return new MillstreamError(
    "UNAVAILABLE",
    `Cannot publish to topic "${topic}": Redis did not answer earlier calls in time`,
  );
}
