/**
 * The names of everything kept in Redis. All keys of a topic carry the topic as hash tag, so they share one slot of a
 * cluster and one script may touch them all. The parts come from `checkName` and hold neither braces nor colons, so no
 * topic or group can reach another's keys.
 *
 * @module
 */

/** Keys of one topic. */
export interface TopicKeys {
  /** Stream: the messages themselves, in order. */
  readonly log: string;
  /** Sorted set: messages published with a delay, by the time they are due. */
  readonly delayed: string;
  /** Hash: when the message with an id is due, so that it is found there. */
  readonly delayedIds: string;
  /** Set: ids published lately. */
  readonly ids: string;
  /** Set: the generation of ids before that. */
  readonly olderIds: string;
  /** Set: the groups that joined. */
  readonly groups: string;
  /** Hash: what has to outlive the groups: the low-water mark of each, and how far its gate has come. */
  readonly known: string;
}

/** Keys of one consumer group of a topic. */
export interface GroupKeys extends TopicKeys {
  /** Stream: messages that come to this group again. */
  readonly retry: string;
  /** Sorted set: failed messages by the time of their next attempt. */
  readonly later: string;
  /** Stream: dead letters. */
  readonly dead: string;
  /** Hash: the one message of each key that may be out, see `lua/lanes.ts`. */
  readonly heads: string;
  /** Sorted set: messages that wait for an earlier one of their key. */
  readonly parked: string;
  /** Hash: how often handlers began to work on a delivery. */
  readonly started: string;
}

/** Keys of `topic`. */
export function topicKeys(prefix: string, topic: string): TopicKeys {
  const base = `${prefix}:{${topic}}:`;
  return {
    log: `${base}log`,
    delayed: `${base}delayed`,
    delayedIds: `${base}delayed:ids`,
    ids: `${base}ids`,
    olderIds: `${base}ids:older`,
    groups: `${base}groups`,
    known: `${base}known`,
  };
}

/** Keys of `group` in `topic`. */
export function groupKeys(prefix: string, topic: string, group: string): GroupKeys {
  const base = `${prefix}:{${topic}}:`;
  return {
    ...topicKeys(prefix, topic),
    retry: `${base}retry:${group}`,
    later: `${base}later:${group}`,
    dead: `${base}dead:${group}`,
    heads: `${base}heads:${group}`,
    parked: `${base}parked:${group}`,
    started: `${base}started:${group}`,
  };
}

/** The first six KEYS of every script that works on a group: log, retry, heads, parked, started, known. */
export function laneKeys(keys: GroupKeys): readonly string[] {
  return [keys.log, keys.retry, keys.heads, keys.parked, keys.started, keys.known];
}

/** The set of all topics that were ever joined. Lets dead letters be listed without knowing the topics. */
export function topicsKey(prefix: string): string {
  return `${prefix}:topics`;
}
