/**
 * Dead letters in memory.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../ports/dead_letters.ts";
import type { Group, Item } from "./group.ts";

/** Dead letters of all topics, and the way in. */
export interface DeadLetterOffice extends DeadLetters {
  /** Keeps an item that its group has given up. The caller has taken it from the group. */
  bury(topic: string, group: Group, item: Item, failure: Failure): void;
}

interface Grave {
  readonly letter: DeadLetter;
  readonly group: Group;
  readonly place: number;
}

/** An office without dead letters. */
export function deadLetterOffice(clock: Clock): DeadLetterOffice {
  const graves = new Map<string, Grave>(); // oldest first
  let count = 0;

  function take(id: string): Grave | undefined {
    const grave = graves.get(id);
    if (!grave) return undefined;
    graves.delete(id);
    grave.group.dead--;
    return grave;
  }

  return {
    bury(topic, group, { message, place, attempt, redrives, firstFailedAt }, failure) {
      const deadLetterId = `d${++count}`;
      const facts = { deadLetterId, topic, group: group.name, attempts: attempt, redrives, failure };
      const letter = { ...message, ...facts, firstFailedAt: firstFailedAt ?? failure.at };
      graves.set(deadLetterId, { letter: Object.freeze(letter), group, place });
      group.dead++;
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async list(filter, { limit, after }) {
      const found: DeadLetter[] = [];
      const beginning = after === undefined ? 0 : numberOf(after);
      for (const { letter } of graves.values()) {
        if (found.length >= limit) break;
        if (numberOf(letter.deadLetterId) > beginning && matches(letter, filter)) found.push(letter);
      }
      return found;
    },
    // deno-lint-ignore require-await -- rejects instead of throwing
    async count(filter) {
      let found = 0;
      for (const { letter } of graves.values()) if (matches(letter, filter)) found++;
      return found;
    },
    get: (id) => Promise.resolve(graves.get(id)?.letter),
    redrive(id) {
      const grave = take(id);
      if (!grave) return Promise.resolve(false);
      const { letter: { id: messageId, type, key, body, redrives }, group, place } = grave;
      const message = key === undefined ? { id: messageId, type, body } : { id: messageId, type, key, body };
      group.add([{ message, place, at: clock.now(), redrives: redrives + 1 }]);
      return Promise.resolve(true);
    },
    remove: (id) => Promise.resolve(take(id) !== undefined),
  };
}

/** Whether all fields that the filter has match. */
export function matches(
  letter: DeadLetter,
  { topic, group, type, error, before }: DeadLetterFilter,
): boolean {
  return (topic === undefined || letter.topic === topic) &&
    (group === undefined || letter.group === group) &&
    (type === undefined || letter.type === type) &&
    (error === undefined || letter.failure.error === error) &&
    (before === undefined || letter.failure.at < before);
}

function numberOf(deadLetterId: string): number {
  if (/^d\d{1,15}$/.test(deadLetterId)) return Number(deadLetterId.slice(1));
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot list dead letters after ${describe(deadLetterId)}: expected the id of a dead letter`,
  );
}
