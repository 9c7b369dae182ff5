/**
 * The driver on kafkajs 2.
 *
 * Traps of it that are dealt with here: a producer whose send failed is thrown away, because it would give the sequence
 * number of what was lost to the next batch, which the broker then takes for a repetition and drops; the consumer never
 * restarts by itself and never commits by itself; partitions that are busy stay where they are.
 *
 * @module
 */
import type { Admin, Consumer, GroupMember, Kafka, KafkaMessage, PartitionAssigner, Producer } from "kafkajs";
import { type Clock, sleep, systemClock, withDeadline } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import { deal } from "./balance.ts";
import type {
  GroupOffset,
  JoinOptions,
  KafkaDriver,
  KafkaRecord,
  Member,
  NewRecord,
  NewTopic,
  TopicPartition,
} from "./driver.ts";
import { partitionKey } from "./driver.ts";
import { asAppendError, asKafkaError } from "./failures.ts";

/** Options of {@linkcode kafkajs}. */
export interface KafkajsOptions {
  /** Deadline of every call, in milliseconds. @default 10_000 */
  readonly timeoutMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

const RETRY = { initialRetryTime: 50, maxRetryTime: 500, retries: 5 };

/**
 * A driver on a client of the caller's.
 *
 * @param client A `Kafka` of kafkajs, or a function that makes one when it is needed first.
 */
export function kafkajs(client: Kafka | (() => Promise<Kafka>), options: KafkajsOptions = {}): KafkaDriver {
  const { timeoutMs = 10_000, clock = systemClock } = options;
  let made: Promise<Kafka> | undefined;
  let admin: Promise<Admin> | undefined;
  let producer: Promise<Producer> | undefined;
  let closed = false;

  const kafka = (): Promise<Kafka> =>
    made ??= Promise.resolve(typeof client === "function" ? client() : client);

  function within<T>(what: string, work: Promise<T>): Promise<T> {
    return withDeadline(
      clock,
      timeoutMs,
      work,
      () => new MillstreamError("UNAVAILABLE", `Cannot ${what}: Kafka did not answer within ${timeoutMs} ms`),
    ).catch(
      (error) => {
        throw asKafkaError(what, error);
      },
    );
  }

  async function openAdmin(): Promise<Admin> {
    const opened = (await kafka()).admin({ retry: RETRY });
    await opened.connect();
    return opened;
  }

  /** Asks the cluster. A client that failed is replaced: it may hold on to brokers that are gone. */
  function ask<T>(what: string, question: (admin: Admin) => Promise<T>): Promise<T> {
    if (closed) return Promise.reject(new MillstreamError("CLOSED", `Cannot ${what}: the driver was closed`));
    const using = admin ??= openAdmin();
    const answer = using.then(question);
    const asked = within(what, answer);
    asked.catch((error) => {
      if (error.code !== "UNAVAILABLE" || admin !== using) return;
      admin = undefined;
      using.then((stale) => stale.disconnect()).catch(() => {});
    });
    return asked;
  }

  async function openProducer(): Promise<Producer> {
    const opened = (await kafka()).producer({
      idempotent: true,
      allowAutoTopicCreation: false,
      retry: RETRY,
    });
    await opened.connect();
    return opened;
  }

  async function append(records: readonly NewRecord[]): Promise<ReadonlyMap<string, number>> {
    if (closed) throw new MillstreamError("CLOSED", "Cannot append to Kafka: the driver was closed");
    const using = producer ??= openProducer();
    const discard = (): void => {
      if (producer === using) producer = undefined;
      using.then((stale) => stale.disconnect()).catch(() => {});
    };
    try {
      await within("connect to Kafka", using);
    } catch (error) {
      discard();
      throw error;
    }
    const partitions = new Map<string, number>();
    for (const record of records) {
      const name = partitionKey(record);
      partitions.set(name, (partitions.get(name) ?? 0) + 1);
    }
    try {
      const sent = using.then((ready) =>
        ready.sendBatch({ acks: -1, timeout: timeoutMs, topicMessages: byTopic(records) })
      );
      const reply = await withDeadline(
        clock,
        timeoutMs,
        sent,
        () => new Error(`no answer within ${timeoutMs} ms`),
      );
      return new Map(reply.map(({ topicName, partition, baseOffset }) => {
        const name = partitionKey({ topic: topicName, partition });
        return [name, Number(baseOffset) + partitions.get(name)! - 1];
      }));
    } catch (error) {
      discard();
      throw asAppendError(error, partitions.size);
    }
  }

  async function partitionCount(topic: string): Promise<number> {
    try {
      const { topics } = await ask(
        `describe topic "${topic}"`,
        (admin) => admin.fetchTopicMetadata({ topics: [topic] }),
      );
      return topics[0]?.partitions.length ?? 0;
    } catch (error) {
      if ((error as MillstreamError).code === "NOT_FOUND") return 0;
      throw error;
    }
  }

  async function offsets(topic: string, at: "start" | "end" | number): Promise<readonly number[]> {
    const found = await ask(`read the offsets of topic "${topic}"`, async (admin) => {
      if (typeof at === "number") {
        return (await admin.fetchTopicOffsetsByTimestamp(topic, at)).map(({ partition, offset }) => ({
          partition,
          offset,
        }));
      }
      const ends = await admin.fetchTopicOffsets(topic);
      return ends.map(({ partition, high, low }) => ({ partition, offset: at === "start" ? low : high }));
    });
    const result: number[] = [];
    for (const { partition, offset } of found) result[partition] = Number(offset);
    return result;
  }

  async function committed(group: string, topics: readonly string[]): Promise<readonly GroupOffset[]> {
    const found = await ask(
      `read the offsets of group "${group}"`,
      (admin) => admin.fetchOffsets({ groupId: group, topics: [...topics] }),
    );
    return found.flatMap(({ topic, partitions }) =>
      partitions.filter(({ offset }) => Number(offset) >= 0).map(({ partition, offset, metadata }) => (
        { topic, partition, offset: Number(offset), metadata: metadata ?? "" }
      ))
    );
  }

  async function read(
    partition: TopicPartition,
    from: number,
    until: number,
  ): Promise<readonly KafkaRecord[]> {
    if (from >= until) return [];
    const consumer = (await kafka()).consumer({
      groupId: `millstream-read-${crypto.randomUUID()}`,
      maxWaitTimeInMs: 50,
      allowAutoTopicCreation: false,
      retry: { ...RETRY, restartOnFailure: () => Promise.resolve(false) },
    });
    const found: KafkaRecord[] = [];
    try {
      const reading = (async () => {
        await consumer.connect();
        await consumer.subscribe({ topic: partition.topic, fromBeginning: true });
        await new Promise<void>((resolve, reject) => {
          consumer.on(consumer.events.CRASH, ({ payload }) => reject(payload.error));
          consumer.run({
            autoCommit: false,
            eachBatch({ batch }) {
              if (batch.partition !== partition.partition) return Promise.resolve();
              for (const message of batch.messages) {
                const record = toRecord(partition, message);
                if (record.offset >= from && record.offset < until) found.push(record);
              }
              if (Number(batch.lastOffset()) >= until - 1) resolve();
              return Promise.resolve();
            },
          }).catch(reject);
          consumer.seek({ ...partition, offset: String(from) });
        });
      })();
      await within(`read topic "${partition.topic}"`, reading);
      return found;
    } finally {
      consumer.disconnect().catch(() => {});
    }
  }

  async function join(options: JoinOptions): Promise<Member> {
    const deadline = clock.monotonic() + timeoutMs;
    for (;;) {
      try {
        return await joinGroup(await kafka(), options, within);
      } catch (error) {
        if (!isStarting(error) || clock.monotonic() > deadline) throw error;
        await sleep(clock, 50);
      }
    }
  }

  return {
    append,
    partitionCount,
    offsets,
    committed,
    read,
    async createTopics(topics: readonly NewTopic[]) {
      await ask("create topics", (admin) =>
        admin.createTopics({
          waitForLeaders: false, // the next question about the topic waits
          topics: topics.map(({ topic, partitions = -1, replicationFactor = -1, config = {} }) => ({
            topic,
            numPartitions: partitions,
            replicationFactor,
            configEntries: Object.entries(config).map(([name, value]) => ({ name, value })),
          })),
        }));
    },
    memberCount: (group) =>
      ask(
        `describe group "${group}"`,
        async (admin) => (await admin.describeGroups([group])).groups[0]?.members.length ?? 0,
      ),
    listTopics: () => ask("list topics", (admin) => admin.listTopics()),
    join,
    async [Symbol.asyncDispose]() {
      if (closed) return;
      closed = true;
      const clients = [admin, producer].map((client) =>
        client?.then((open) => open.disconnect()).catch(() => {})
      );
      await Promise.all(clients);
    },
  };
}

async function joinGroup(
  kafka: Kafka,
  options: JoinOptions,
  within: <T>(what: string, work: Promise<T>) => Promise<T>,
): Promise<Member> {
  const { AssignerProtocol } = await import("kafkajs").then((module) => module.default ?? module);
  const { group, topics, sessionTimeoutMs, rebalanceTimeoutMs, fetchWaitMs } = options;
  const consumer = kafka.consumer({
    groupId: group,
    sessionTimeout: sessionTimeoutMs,
    rebalanceTimeout: rebalanceTimeoutMs,
    heartbeatInterval: Math.max(20, Math.min(3_000, Math.floor(sessionTimeoutMs / 10))),
    maxWaitTimeInMs: fetchWaitMs,
    allowAutoTopicCreation: false,
    partitionAssigners: [assigner(AssignerProtocol, options.claims)],
    retry: { ...RETRY, retries: 2, restartOnFailure: () => Promise.resolve(false) },
  });
  let isIn = false;
  let out = false;
  function lose(error: Error): void {
    if (out || !isIn) return;
    out = true;
    options.onLost(error);
    void leave();
  }
  async function leave(): Promise<void> {
    out = true;
    await consumer.disconnect().catch(() => {}); // the session's timeout does it where this fails
  }

  const joined = new Promise<void>((resolve, reject) => {
    consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
      if (out) return;
      isIn = true;
      options.onAssigned(payload.memberId, payload.memberAssignment[topics[0]!] ?? []);
      resolve();
    });
    consumer.on(consumer.events.CRASH, ({ payload }) => {
      reject(payload.error);
      lose(asKafkaError(`stay in group "${group}"`, payload.error));
    });
  });
  try {
    await within(`join group "${group}"`, start(consumer, options).then(() => joined));
  } catch (error) {
    await leave();
    throw error;
  }
  const all = topics.map((topic) => ({ topic }));
  return {
    async commit(offsets) {
      await within(
        `commit for group "${group}"`,
        consumer.commitOffsets(offsets.map((offset) => ({ ...offset, offset: String(offset.offset) }))),
      );
    },
    pause: () => consumer.pause(all),
    resume: () => consumer.resume(all),
    leave,
  };
}

async function start(consumer: Consumer, { topics, onRecords }: JoinOptions): Promise<void> {
  await consumer.connect();
  await consumer.subscribe({ topics: [...topics], fromBeginning: true });
  await consumer.run({
    autoCommit: false,
    partitionsConsumedConcurrently: 4,
    eachBatch: async ({ batch }) => {
      const partition = { topic: batch.topic, partition: batch.partition };
      await onRecords(partition, batch.messages.map((message) => toRecord(partition, message)));
    },
  });
}

/** Leaves claimed partitions where they are, see `balance.ts`. The claims travel as the members' user data. */
function assigner(
  { MemberMetadata, MemberAssignment }: typeof import("kafkajs").AssignerProtocol,
  claims: () => readonly number[],
): PartitionAssigner {
  const name = "millstream-claims";
  return ({ cluster }) => ({
    name,
    version: 0,
    protocol: ({ topics }) => ({
      name,
      // kafkajs writes text as its bytes, which the type does not say.
      metadata: MemberMetadata.encode({ version: 0, topics, userData: claims().join(",") as never }),
    }),
    assign({ members, topics }) {
      const count = Math.max(...topics.map((topic) => cluster.findTopicPartitionMetadata(topic).length));
      const shares = deal(members.map(candidate), count);
      return Promise.resolve(members.map(({ memberId }) => ({
        memberId,
        memberAssignment: MemberAssignment.encode({
          version: 0,
          assignment: Object.fromEntries(topics.map((topic) => [topic, [...shares.get(memberId) ?? []]])),
          userData: "" as never,
        }),
      })));
    },
  });

  function candidate({ memberId, memberMetadata }: GroupMember): { id: string; claims: number[] } {
    const text = String(MemberMetadata.decode(memberMetadata)?.userData ?? "");
    return { id: memberId, claims: text === "" ? [] : text.split(",").map(Number) };
  }
}

/** Whether the coordinator of the group is only just getting ready: it says so for the first groups of a new cluster. */
function isStarting(error: unknown): boolean {
  const { type } = ((error as Error).cause ?? {}) as { type?: string };
  return type === "GROUP_LOAD_IN_PROGRESS" || type === "GROUP_COORDINATOR_NOT_AVAILABLE" ||
    type === "NOT_COORDINATOR_FOR_GROUP";
}

function byTopic(records: readonly NewRecord[]): { topic: string; messages: NewRecord[] }[] {
  const topics = new Map<string, NewRecord[]>();
  for (const record of records) {
    const messages = topics.get(record.topic);
    if (messages) messages.push(record);
    else topics.set(record.topic, [record]);
  }
  return [...topics].map(([topic, messages]) => ({ topic, messages }));
}

function toRecord(
  partition: TopicPartition,
  { key, value, headers = {}, offset, timestamp }: KafkaMessage,
): KafkaRecord {
  return {
    ...partition,
    offset: Number(offset),
    timestamp: Number(timestamp),
    key: key === null || key === undefined ? null : String(key),
    value: value === null || value === undefined ? null : String(value),
    headers: Object.fromEntries(Object.entries(headers).map(([name, given]) => [name, String(given)])),
  };
}
