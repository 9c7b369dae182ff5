/**
 * What the adapter needs of a Kafka client. Two implementations: `kafkajs` and `@platformatic/kafka`.
 *
 * Offsets are numbers: a partition that takes in a million records a second reaches 2^53 after 285 years.
 *
 * @module
 */

/** A partition of a topic. */
export interface TopicPartition {
  readonly topic: string;
  readonly partition: number;
}

/** A record to append. */
export interface NewRecord extends TopicPartition {
  readonly key: string | null;
  readonly value: string | null;
  readonly headers: Readonly<Record<string, string>>;
}

/** A record that was read. */
export interface KafkaRecord extends NewRecord {
  readonly offset: number;
  /** Milliseconds since 1970: when the producer made it, or the broker took it in, as the topic is configured. */
  readonly timestamp: number;
}

/** An offset that a group committed, or is to commit. */
export interface GroupOffset extends TopicPartition {
  readonly offset: number;
  readonly metadata: string;
}

/** A topic to create. */
export interface NewTopic {
  readonly topic: string;
  /** @default the broker's `num.partitions` */
  readonly partitions?: number;
  /** @default the broker's `default.replication.factor` */
  readonly replicationFactor?: number;
  /** Topic configuration, such as `{ "retention.ms": "-1" }`. */
  readonly config?: Readonly<Record<string, string>>;
}

/** How a consumer joins a group. */
export interface JoinOptions {
  readonly group: string;
  /** All with the same number of partitions; the same number of each goes to the same member. */
  readonly topics: readonly string[];
  /** A member that is silent for longer is out, in milliseconds. */
  readonly sessionTimeoutMs: number;
  /** How long the broker waits for all members to join again, in milliseconds. */
  readonly rebalanceTimeoutMs: number;
  /** How long the broker holds back an empty answer to a fetch, in milliseconds. */
  readonly fetchWaitMs: number;
  /** Called before each (re)join: the partition numbers that this member must keep if it can. Nothing else may be handed out from then on. */
  claims(): readonly number[];
  /** Called after each join. `memberId` is another one if the group had expelled this member. */
  onAssigned(memberId: string, partitions: readonly number[]): void;
  /** Records of one partition, in order. What was seen before may come again after a join. The next ones wait for it. */
  onRecords(partition: TopicPartition, records: readonly KafkaRecord[]): Promise<void>;
  /** The member is out and will not come back by itself. */
  onLost(error: Error): void;
}

/** A member of a group. */
export interface Member {
  /** Resolves when the broker has it. Rejects if the member is out, or while the group rebalances. */
  commit(offsets: readonly GroupOffset[]): Promise<void>;
  /** Stops fetching until {@linkcode Member.resume}. */
  pause(): void;
  resume(): void;
  /** Leaves the group at once. */
  leave(): Promise<void>;
}

/** A client of a Kafka cluster. Everything rejects with `MillstreamError`, and within the driver's own deadline. */
export interface KafkaDriver extends AsyncDisposable {
  /**
   * Appends with an idempotent producer and `acks=all`, in the given order for each partition. Returns the offset of
   * the last record by `topic/partition`. Rejects with `PUBLISH_INDETERMINATE` if some may have been appended.
   */
  append(records: readonly NewRecord[]): Promise<ReadonlyMap<string, number>>;
  /** Creates what does not exist. Rejects with `REJECTED` if it may not. */
  createTopics(topics: readonly NewTopic[]): Promise<void>;
  /** The number of partitions; 0 if there is no such topic. */
  partitionCount(topic: string): Promise<number>;
  /** One offset for each partition: the first that is kept, the one the next record gets, or the first since a moment. */
  offsets(topic: string, at: "start" | "end" | number): Promise<readonly number[]>;
  /** What the group committed. Partitions without a commit are absent. */
  committed(group: string, topics: readonly string[]): Promise<readonly GroupOffset[]>;
  /** How many members the group has now. */
  memberCount(group: string): Promise<number>;
  listTopics(): Promise<readonly string[]>;
  /** Joins a group as a new member. Resolves when it is in. */
  join(options: JoinOptions): Promise<Member>;
  /** Reads a partition without a group, from `from` up to but without `until`, at least one record if there is any. */
  read(partition: TopicPartition, from: number, until: number): Promise<readonly KafkaRecord[]>;
}

/** `topic/partition`, for maps. */
export function partitionKey({ topic, partition }: TopicPartition): string {
  return `${topic}/${partition}`;
}
