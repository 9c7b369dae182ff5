/**
 * Applications that share a cluster: each has topics and groups that begin with a name of its own.
 *
 * @module
 */
import type { KafkaDriver, TopicPartition } from "./driver.ts";

/** The driver, for whom all topics and groups begin with `prefix` and a dot, and no others are there. */
export function prefixed(driver: KafkaDriver, prefix: string): KafkaDriver {
  if (prefix === "") return driver;
  const start = `${prefix}.`;
  const outside = <T extends TopicPartition>(place: T): T => ({ ...place, topic: start + place.topic });
  const inside = <T extends TopicPartition>(place: T): T => ({
    ...place,
    topic: place.topic.slice(start.length),
  });
  return {
    ...driver,
    async append(records) {
      const offsets = await driver.append(records.map(outside));
      return new Map([...offsets].map(([name, offset]) => [name.slice(start.length), offset]));
    },
    createTopics: (topics) =>
      driver.createTopics(topics.map((topic) => ({ ...topic, topic: start + topic.topic }))),
    partitionCount: (topic) => driver.partitionCount(start + topic),
    offsets: (topic, at) => driver.offsets(start + topic, at),
    committed: async (group, topics) =>
      (await driver.committed(start + group, topics.map((topic) => start + topic))).map(inside),
    memberCount: (group) => driver.memberCount(start + group),
    listTopics: async () =>
      (await driver.listTopics()).filter((name) => name.startsWith(start)).map((name) =>
        name.slice(start.length)
      ),
    read: async (partition, from, until) => (await driver.read(outside(partition), from, until)).map(inside),
    async join(options) {
      const member = await driver.join({
        ...options,
        group: start + options.group,
        topics: options.topics.map((topic) => start + topic),
        onRecords: (partition, records) => options.onRecords(inside(partition), records.map(inside)),
      });
      return { ...member, commit: (offsets) => member.commit(offsets.map(outside)) };
    },
  };
}
