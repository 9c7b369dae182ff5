/**
 * What topics and groups are called in Kafka.
 *
 * A topic has its own name. A group of it is `topic/group`. Each group has two topics of its own, which other tools
 * may read: `topic_-group_-redriven` and `topic_-group_-dead`, with `_` in names doubled, so that no two collide.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";

/** Kafka's own limit. */
const MAX_TOPIC_LENGTH = 249;

/** What belongs to one group. */
export interface GroupNames {
  readonly topic: string;
  readonly group: string;
  /** The consumer group's id. */
  readonly groupId: string;
  /** Messages that come back to this group only. */
  readonly redriven: string;
  /** Dead letters of this group. */
  readonly dead: string;
}

/** The names of a group. @throws `INVALID_ARGUMENT` if they are too long together. */
export function groupNames(topic: string, group: string): GroupNames {
  const stem = `${escaped(topic)}_-${escaped(group)}`;
  if (stem.length + "_-redriven".length > MAX_TOPIC_LENGTH) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use group "${group}" of topic "${topic}": expected at most ${MAX_TOPIC_LENGTH} characters for "${stem}_-redriven"`,
    );
  }
  return { topic, group, groupId: `${topic}/${group}`, redriven: `${stem}_-redriven`, dead: `${stem}_-dead` };
}

/** The group that the Kafka topic `name` belongs to; `undefined` if it belongs to none. */
export function ownerOf(name: string): GroupNames | undefined {
  const [topic, group, kind, ...more] = name.replaceAll("__", "/").split("_-"); // no name has a slash
  if (!topic || !group || !kind || more.length > 0) return undefined;
  return groupNames(topic.replaceAll("/", "_"), group.replaceAll("/", "_"));
}

function escaped(name: string): string {
  return name.replaceAll("_", "__");
}
