/**
 * Streams and consumers: their names, and how they come into being.
 *
 * ```
 * stream of a topic ── prefix.topic          what is published
 *                   └─ prefix.topic.group    copies for one group: retries, releases, redrives
 * stream of dead letters ── prefix=dead.topic.group
 * ```
 *
 * @module
 */
import { describe, isMillstreamError, MillstreamError } from "../../src/core/errors.ts";
import type { StartFrom } from "../../src/ports/broker.ts";
import { API } from "./failures.ts";
import type { Link } from "./link.ts";

/** What of the streams a user may choose. */
export interface StreamOptions {
  /** First part of every name, so that applications can share an account. @default "millstream" */
  readonly prefix?: string;
  /**
   * More settings for the streams of topics, as JetStream names them: `max_msgs`, `max_age` (nanoseconds), `max_bytes`,
   * `num_replicas`, `storage`, `duplicate_window`... By default nothing is ever dropped, and a stream that has limits
   * refuses what is beyond them (`discard: "new"`) instead of dropping what groups have not handled yet. A stream that
   * exists is held against these settings and refused with `REJECTED` where it differs.
   */
  readonly stream?: Readonly<Record<string, unknown>>;
  /** More settings for the consumers of groups: `max_ack_pending`, `num_replicas`, `inactive_threshold`... */
  readonly consumer?: Readonly<Record<string, unknown>>;
  /**
   * After so long without a sign of life a consumer counts as dead and what it held goes to others, in milliseconds.
   * A living one gives a sign every third of it. Set for a group when it is made. @default 10_000
   */
  readonly ackWaitMs?: number;
  /** Whether streams and consumers are made where they are missing, or refused with `NOT_FOUND`. @default true */
  readonly create?: boolean;
}

/** What the server says about a consumer. */
export interface ConsumerInfo {
  readonly name: string;
  readonly config: { readonly ack_wait: number; readonly opt_start_time?: string };
  readonly delivered: { readonly stream_seq: number };
  readonly num_ack_pending: number;
  readonly num_pending: number;
}

/** Names and declarations under one prefix. */
export interface Streams {
  /** The stream of dead letters. */
  readonly dead: string;
  /** Begins the name of every topic's stream. */
  readonly topicPrefix: string;
  stream(topic: string): string;
  subject(topic: string): string;
  groupSubject(topic: string, group: string): string;
  deadSubject(topic: string, group: string): string;
  /** A name as NATS allows it in streams, consumers and subjects: without dots. */
  token(name: string): string;
  /** The name that {@linkcode token} was made of. */
  name(token: string): string;
  ensureTopic(topic: string): Promise<void>;
  ensureDead(): Promise<void>;
  ensureGroup(topic: string, group: string, from: StartFrom): Promise<ConsumerInfo>;
  consumerInfo(topic: string, group: string): Promise<ConsumerInfo>;
  /** Looks again next time: something was not there. */
  forget(): void;
}

interface StreamInfo {
  readonly config: Readonly<Record<string, unknown>>;
}

/** Nanoseconds, in which JetStream counts. */
const MS = 1_000_000;

/** The streams for these options. */
export function streams(options: StreamOptions, link: Link): Streams {
  const { prefix = "millstream", create = true, ackWaitMs = 10_000 } = options;
  const first = token(prefix);
  const dead = `${first}=dead`;
  const topicPrefix = `${first}=topic=`;
  const known = new Map<string, Promise<void>>();

  function named(name: string): string {
    if (name.length <= 250) return name;
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use the name "${name}": NATS allows 255 characters`,
    );
  }

  const stream = (topic: string): string => named(topicPrefix + token(topic));
  const subject = (topic: string): string => `${first}.${token(topic)}`;

  /** Once for each stream, and again after a failure. */
  function once(name: string, work: () => Promise<void>): Promise<void> {
    const before = known.get(name);
    if (before) return before;
    const working = work();
    known.set(name, working);
    working.catch(() => known.delete(name));
    return working;
  }

  async function ensureStream(name: string, wanted: Readonly<Record<string, unknown>>): Promise<void> {
    const what = `use the stream "${name}"`;
    const info = await absent(() => link.api<StreamInfo>(what, `STREAM.INFO.${name}`));
    if (info) return compare(name, info.config);
    if (!create) throw new MillstreamError("NOT_FOUND", `Cannot ${what}: it does not exist`);
    const config = { name, retention: "limits", storage: "file", discard: "new", num_replicas: 1, ...wanted };
    try {
      await link.api(what, `STREAM.CREATE.${name}`, config);
    } catch (error) {
      if (!isMillstreamError(error) || error.details.apiCode !== API.streamExists) throw error;
      // Somebody else was faster.
      compare(name, (await link.api<StreamInfo>(what, `STREAM.INFO.${name}`)).config);
    }
  }

  /** What is there may have been made by somebody else, with other limits. */
  function compare(name: string, config: Readonly<Record<string, unknown>>): void {
    if (name === dead) return;
    for (const [key, wanted] of Object.entries(options.stream ?? {})) {
      if (JSON.stringify(config[key]) === JSON.stringify(wanted) || config[key] === undefined) continue;
      throw new MillstreamError(
        "REJECTED",
        `Cannot use the stream "${name}": expected ${key} ${describe(wanted)}, it has ${
          describe(config[key])
        }`,
      );
    }
  }

  const made: Streams = {
    dead,
    topicPrefix,
    stream,
    subject,
    groupSubject: (topic, group) => `${subject(topic)}.${token(group)}`,
    deadSubject: (topic, group) => `${dead}.${token(topic)}.${token(group)}`,
    token,
    name: (text) => text.replaceAll("~", "."),
    ensureTopic: (topic) =>
      once(
        stream(topic),
        () =>
          ensureStream(stream(topic), {
            subjects: [subject(topic), `${subject(topic)}.*`],
            ...options.stream,
          }),
      ),
    ensureDead: () => once(dead, () => ensureStream(dead, { subjects: [`${dead}.>`] })),
    async ensureGroup(topic, group, from) {
      await Promise.all([made.ensureTopic(topic), made.ensureDead()]);
      const known = await absent(() => made.consumerInfo(topic, group));
      if (known) return known;
      const what = `join "${topic}/${group}"`;
      if (!create) throw new MillstreamError("NOT_FOUND", `Cannot ${what}: the consumer does not exist`);
      const config = {
        durable_name: token(group),
        ack_policy: "explicit",
        ack_wait: ackWaitMs * MS,
        max_deliver: -1,
        max_ack_pending: 50_000,
        replay_policy: "instant",
        ...start(from),
        ...await filter(topic, group),
        ...options.consumer,
      };
      const name = stream(topic);
      const request = { stream_name: name, config };
      return await link.api<ConsumerInfo>(what, `CONSUMER.DURABLE.CREATE.${name}.${token(group)}`, request);
    },
    consumerInfo: (topic, group) =>
      link.api(`look at "${topic}/${group}"`, `CONSUMER.INFO.${stream(topic)}.${token(group)}`),
    forget: () => known.clear(),
  };

  /** Servers before 2.10 know one subject per consumer; there the copies for other groups come as well. */
  async function filter(topic: string, group: string): Promise<Readonly<Record<string, unknown>>> {
    const { info } = await link.connection();
    return filtersSubjects(info?.version)
      ? { filter_subjects: [subject(topic), made.groupSubject(topic, group)] }
      : {};
  }

  return made;
}

/** Whether a server lets a consumer have several subjects. */
export function filtersSubjects(version = "0.0.0"): boolean {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > 2 || (major === 2 && minor >= 10);
}

function start(from: StartFrom): Readonly<Record<string, unknown>> {
  if (from === "start") return { deliver_policy: "all" };
  if (from === "now") return { deliver_policy: "new" };
  return { deliver_policy: "by_start_time", opt_start_time: new Date(from.since).toISOString() };
}

function token(name: string): string {
  return name.replaceAll(".", "~");
}

async function absent<T>(look: () => Promise<T>): Promise<T | undefined> {
  try {
    return await look();
  } catch (error) {
    if (isMillstreamError(error, "NOT_FOUND")) return undefined;
    throw error;
  }
}
