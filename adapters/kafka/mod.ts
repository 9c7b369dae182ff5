/**
 * Millstream on Apache Kafka.
 *
 * ```ts
 * import { millstream } from "millstream";
 * import { kafka } from "millstream/kafka";
 *
 * const app = millstream({ broker: kafka({ url: "kafka://localhost:9092" }) });
 * ```
 *
 * @module
 */
export type {
  GroupOffset,
  JoinOptions,
  KafkaDriver,
  KafkaRecord,
  Member,
  NewRecord,
  NewTopic,
  TopicPartition,
} from "./driver.ts";
export {
  kafka,
  type KafkaCommonOptions,
  type KafkaOptions,
  type KafkaOwnDriver,
  type KafkaTopicOptions,
  type KafkaUrl,
} from "./broker.ts";
export { kafkajs, type KafkajsOptions } from "./kafkajs.ts";
