/**
 * What the queues of groups are called. A queue of SQS has 80 characters of `A-Z a-z 0-9 - _`; in names `_` is doubled
 * and `.` is `_d`, so that no two collide.
 *
 * @module
 */
import { MillstreamError } from "../../src/core/errors.ts";

const MAX_LENGTH = 80;

/** The queues of one group. */
export interface GroupQueues {
  readonly topic: string;
  readonly group: string;
  /** What the group has to handle. */
  readonly queue: string;
  /** Dead letters of the group. */
  readonly dead: string;
}

/** The names of a group's queues. @throws `INVALID_ARGUMENT` if they are too long. */
export function groupQueues(prefix: string, topic: string, group: string, fifo: boolean): GroupQueues {
  const suffix = fifo ? ".fifo" : "";
  const stem = topicPrefix(prefix, topic) + escaped(group);
  const names = { topic, group, queue: stem + suffix, dead: `${stem}_-dead${suffix}` };
  if (names.dead.length <= MAX_LENGTH) return names;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use group "${group}" of topic "${topic}": expected at most ${MAX_LENGTH} characters for "${names.dead}"`,
  );
}

/** What the queues of all groups of a topic begin with. */
export function topicPrefix(prefix: string, topic: string): string {
  return `${allTopics(prefix)}${escaped(topic)}_-`;
}

/** What all queues of a prefix begin with. */
export function allTopics(prefix: string): string {
  return prefix === "" ? "" : `${escaped(prefix)}_-`;
}

/** The group whose queue or dead-letter queue this is; `undefined` if it is none of ours. */
export function ownerOf(prefix: string, name: string, fifo: boolean): GroupQueues | undefined {
  const start = allTopics(prefix);
  if (!name.startsWith(start) || name.endsWith(".fifo") !== fifo) return undefined;
  const text = name.slice(start.length, fifo ? -".fifo".length : undefined);
  const [topic, group, kind, ...more] = text.replaceAll("__", "/").split("_-"); // no name has a slash
  if (!topic || !group || more.length > 0 || (kind !== undefined && kind !== "dead")) return undefined;
  return groupQueues(prefix, unescaped(topic), unescaped(group), fifo);
}

function escaped(name: string): string {
  return name.replaceAll("_", "__").replaceAll(".", "_d");
}

function unescaped(text: string): string {
  return text.replaceAll("_d", ".").replaceAll("/", "_");
}
