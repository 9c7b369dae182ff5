/**
 * Dead letters: one stream for each group, beside the topic's log. Listing several groups merges their streams by
 * entry id, page by page.
 *
 * @module
 */
import { checkRange } from "../core/backoff.ts";
import { checkName } from "../core/names.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../ports/dead_letters.ts";
import type { RedisArgument, RedisConnection, RedisReply } from "../ports/redis.ts";
import type { RawEntry } from "./delivery.ts";
import { decodeMessageFields, decodeState } from "./entry.ts";
import { groupKeys, laneKeys, topicKeys, topicsKey } from "./keys.ts";
import { REDRIVE } from "./lua/dead_letters.ts";
import { asUnavailable } from "./replies.ts";

/** What {@linkcode redisDeadLetters} needs. */
export interface DeadLettersContext {
  readonly connection: RedisConnection;
  readonly prefix: string;
  readonly timeoutMs: number;
}

/** Entries fetched at a time from one group. */
const PAGE = 100;

/** Where a dead letter lies; in text `<entry id>~<topic>~<group>`, as names hold no `~`. */
interface Shelf {
  readonly topic: string;
  readonly group: string;
}

/** Creates the dead letters of a broker. */
export function redisDeadLetters({ connection, prefix, timeoutMs }: DeadLettersContext): DeadLetters {
  async function list(
    filter: DeadLetterFilter,
    { limit, after }: { readonly limit: number; readonly after?: string },
  ): Promise<readonly DeadLetter[]> {
    checkRange("limit", limit, 1, 10_000, true);
    const start = after === undefined ? undefined : parseId(after);
    if (after !== undefined && !start) return [];
    const shelves = await shelvesOf(filter);
    const readers = shelves.map((shelf) => shelfReader(shelf, filter, start));
    const found: DeadLetter[] = [];
    while (found.length < limit) {
      const heads = await Promise.all(readers.map((reader) => reader.head()));
      // The heads change one at a time, so all but one of these waits are over before they begin.
      let oldest: number | undefined;
      heads.forEach((head, index) => {
        const best = oldest === undefined ? undefined : heads[oldest];
        if (head && (!best || isBefore(head.deadLetterId, best.deadLetterId))) oldest = index;
      });
      const letter = oldest === undefined ? undefined : heads[oldest];
      if (oldest === undefined || !letter) break;
      found.push(letter);
      readers[oldest]?.next();
    }
    return found;
  }

  async function shelvesOf(filter: DeadLetterFilter): Promise<readonly Shelf[]> {
    if (filter.topic !== undefined) checkName("topic", filter.topic);
    if (filter.group !== undefined) checkName("group", filter.group);
    const topics = filter.topic === undefined ? await members(topicsKey(prefix)) : [filter.topic];
    const shelves = await Promise.all(topics.map(async (topic) => {
      const groups = filter.group === undefined
        ? await members(topicKeys(prefix, topic).groups)
        : [filter.group];
      return groups.map((group) => ({ topic, group }));
    }));
    return shelves.flat();
  }

  async function members(key: string): Promise<readonly string[]> {
    return await call("smembers", [key]) as readonly string[];
  }

  /** Reads a shelf from the oldest on, a page at a time, leaving out what the filter does not want. */
  function shelfReader(shelf: Shelf, filter: DeadLetterFilter, after: ParsedId | undefined): ShelfReader {
    const key = groupKeys(prefix, shelf.topic, shelf.group).dead;
    const page: DeadLetter[] = [];
    let from = after === undefined ? "-" : startAfter(after, shelf);
    let exhausted = false;

    async function head(): Promise<DeadLetter | undefined> {
      while (page.length === 0 && !exhausted) {
        const entries = await call("xrange", [key, from, "+", "COUNT", PAGE]) as readonly RawEntry[];
        const last = entries[entries.length - 1];
        exhausted = entries.length < PAGE;
        if (last) from = `(${last[0]}`;
        page.push(
          ...entries.map((entry) => toDeadLetter(shelf, entry)).filter((letter) => matches(letter, filter)),
        );
      }
      return page[0];
    }

    return { head, next: () => void page.shift() };
  }

  async function get(deadLetterId: string): Promise<DeadLetter | undefined> {
    const id = parseId(deadLetterId);
    if (!id) return undefined;
    const { dead } = groupKeys(prefix, id.topic, id.group);
    const [entry] = await call("xrange", [dead, id.entryId, id.entryId]) as readonly RawEntry[];
    return entry && toDeadLetter(id, entry);
  }

  async function redrive(deadLetterId: string): Promise<boolean> {
    const id = parseId(deadLetterId);
    if (!id) return false;
    const keys = groupKeys(prefix, id.topic, id.group);
    const reply = connection.script(REDRIVE, [...laneKeys(keys), keys.dead], [id.group, id.entryId], {
      timeoutMs,
    });
    return await settled(reply) === 1;
  }

  async function remove(deadLetterId: string): Promise<boolean> {
    const id = parseId(deadLetterId);
    if (!id) return false;
    return await call("xdel", [groupKeys(prefix, id.topic, id.group).dead, id.entryId]) === 1;
  }

  async function count(filter: DeadLetterFilter): Promise<number> {
    let page = await list(filter, { limit: 1_000 });
    let found = page.length;
    while (page.length === 1_000) {
      page = await list(filter, { limit: 1_000, after: page.at(-1)?.deadLetterId ?? "" });
      found += page.length;
    }
    return found;
  }

  function call(command: string, args: readonly RedisArgument[]): Promise<RedisReply> {
    return settled(connection.call(command, args, { timeoutMs }));
  }

  return { list, count, get, redrive, remove };
}

interface ShelfReader {
  /** The oldest that was not taken, if there is one. */
  head(): Promise<DeadLetter | undefined>;
  /** Takes it. */
  next(): void;
}

interface ParsedId extends Shelf {
  readonly entryId: string;
}

async function settled(reply: Promise<RedisReply>): Promise<RedisReply> {
  try {
    return await reply;
  } catch (error) {
    throw asUnavailable(error);
  }
}

function toDeadLetter(shelf: Shelf, [entryId, fields]: RawEntry): DeadLetter {
  const state = decodeState(fields[1]);
  return {
    ...decodeMessageFields(entryId, fields.slice(4)),
    ...shelfOf(shelf),
    deadLetterId: `${entryId}~${shelf.topic}~${shelf.group}`,
    attempts: state.attempt,
    redrives: state.redrives,
    firstFailedAt: state.firstFailedAt,
    failure: parseFailure(fields[3]),
  };
}

function parseFailure(text = ""): Failure {
  try {
    return JSON.parse(text) as Failure;
  } catch {
    return { error: "unknown", message: text, at: 0 };
  }
}

function shelfOf({ topic, group }: Shelf): Shelf {
  return { topic, group };
}

function matches(letter: DeadLetter, filter: DeadLetterFilter): boolean {
  return (filter.type === undefined || letter.type === filter.type) &&
    (filter.error === undefined || letter.failure.error === filter.error) &&
    (filter.before === undefined || letter.failure.at < filter.before);
}

function parseId(deadLetterId: string): ParsedId | undefined {
  const [, entryId, topic, group] =
    /^(\d{1,20}-\d{1,20})~([\w.-]{1,200})~([\w.-]{1,200})$/.exec(deadLetterId) ?? [];
  return entryId && topic && group ? { entryId, topic, group } : undefined;
}

/** Where a shelf goes on after a dead letter of this or another shelf. */
function startAfter(after: ParsedId, shelf: Shelf): string {
  return isBefore(`${after.entryId}~${shelf.topic}~${shelf.group}`, idText(after)) || sameShelf(after, shelf)
    ? `(${after.entryId}`
    : after.entryId;
}

function sameShelf(a: Shelf, b: Shelf): boolean {
  return a.topic === b.topic && a.group === b.group;
}

function idText({ entryId, topic, group }: ParsedId): string {
  return `${entryId}~${topic}~${group}`;
}

/** Order of dead letters: by entry id, that is by time, then by shelf. */
function isBefore(a: string, b: string): boolean {
  const [aTime = 0, aSequence = 0, aShelf = ""] = orderOf(a);
  const [bTime = 0, bSequence = 0, bShelf = ""] = orderOf(b);
  if (aTime !== bTime) return aTime < bTime;
  if (aSequence !== bSequence) return aSequence < bSequence;
  return aShelf < bShelf;
}

function orderOf(id: string): readonly [number, number, string] {
  const dash = id.indexOf("-");
  const shelf = id.indexOf("~");
  return [Number(id.slice(0, dash)), Number(id.slice(dash + 1, shelf)), id.slice(shelf)];
}
