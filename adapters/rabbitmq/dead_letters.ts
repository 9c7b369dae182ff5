/**
 * Dead letters: one durable queue per group, next to the group's own.
 *
 * Looking and counting by more than topic and group cost the transfer of the group's dead letters. To redrive and to
 * remove reach one of the oldest 64 cheaply, any other at the same cost as looking.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters } from "../../src/ports/dead_letters.ts";
import type { Browse } from "./browse.ts";
import type { AmqpMessage, AmqpProperties } from "./driver.ts";
import { copyOf, toDeadLetter } from "./message.ts";
import type { Group } from "./registry.ts";
import type { Topology } from "./topology.ts";

/** What {@linkcode rabbitDeadLetters} needs. */
export interface DeadLetterParts {
  readonly topology: Topology;
  readonly browse: Browse;
  /** The groups of a topic, or all. */
  readonly groups: (topic: string | undefined) => Promise<readonly Group[]>;
  /** Messages in a queue; 0 if there is no such queue. */
  readonly count: (queue: string) => Promise<number>;
  /** Puts a copy into a group's own queue. */
  readonly send: (group: Group, body: Uint8Array, properties: AmqpProperties) => Promise<void>;
}

/** Where one dead letter lies. */
interface Place extends Group {
  readonly letter: string;
  readonly at: number;
}

/** The dead letters of all groups under one prefix. */
export function rabbitDeadLetters({ topology, browse, groups, count, send }: DeadLetterParts): DeadLetters {
  async function read(filter: DeadLetterFilter): Promise<DeadLetter[]> {
    const found: DeadLetter[] = [];
    for (const group of await wanted(filter)) {
      await browse(topology.deadQueue(group.topic, group.group), (raw) => {
        const letter = letterOf(raw, group);
        if (matches(letter, filter)) found.push(letter);
        return "keep";
      });
    }
    return found.sort((a, b) => compare(parse(a.deadLetterId)!, parse(b.deadLetterId)!));
  }

  async function wanted({ topic, group }: DeadLetterFilter): Promise<readonly Group[]> {
    if (topic !== undefined && group !== undefined) return [{ topic, group }];
    return (await groups(topic)).filter((one) => group === undefined || one.group === group);
  }

  /** Does `work` with one dead letter, and drops it if that says so. */
  async function find(
    deadLetterId: string,
    work: (raw: AmqpMessage, place: Place) => Promise<"drop and stop" | "stop">,
  ): Promise<boolean> {
    const place = parse(deadLetterId);
    if (!place) return false;
    let found = false;
    await browse(topology.deadQueue(place.topic, place.group), async (raw) => {
      if (raw.properties.headers?.["millstream-letter"] !== place.letter) return "keep";
      const verdict = await work(raw, place);
      found = true;
      return verdict;
    }, { stops: true });
    return found;
  }

  return {
    async list(filter, { limit, after }) {
      checkRange("limit", limit, 1, 10_000, true);
      const last = after === undefined ? undefined : parse(after);
      const letters = await read(filter);
      const rest = last
        ? letters.filter(({ deadLetterId }) => compare(parse(deadLetterId)!, last) > 0)
        : letters;
      return rest.slice(0, limit);
    },
    async count(filter) {
      const { type, error, before } = filter;
      if (type !== undefined || error !== undefined || before !== undefined) {
        return (await read(filter)).length;
      }
      let sum = 0;
      for (const { topic, group } of await wanted(filter)) {
        sum += await count(topology.deadQueue(topic, group));
      }
      return sum;
    },
    async get(deadLetterId) {
      let letter: DeadLetter | undefined;
      await find(deadLetterId, (raw, { topic, group }) => {
        letter = letterOf(raw, { topic, group });
        return Promise.resolve("stop");
      });
      return letter;
    },
    redrive: (deadLetterId) =>
      find(deadLetterId, async (raw, { topic, group }) => {
        const { redrives } = letterOf(raw, { topic, group });
        const facts = { attempt: 1, firstFailedAt: 0, redrives: redrives + 1, suspect: false };
        await send({ topic, group }, raw.content, copyOf(raw, facts));
        return "drop and stop";
      }),
    remove: (deadLetterId) => find(deadLetterId, () => Promise.resolve("drop and stop")),
  };
}

function letterOf(raw: AmqpMessage, { topic, group }: Group): DeadLetter {
  return toDeadLetter(raw, { topic, group }, (letter, at) => format({ topic, group, letter, at }));
}

function matches(letter: DeadLetter, { type, error, before }: DeadLetterFilter): boolean {
  return (type === undefined || letter.type === type) &&
    (error === undefined || letter.failure.error === error) &&
    (before === undefined || letter.failure.at < before);
}

/** Oldest first, and in one order for all that failed at the same time. */
function compare(a: Place, b: Place): number {
  if (a.at !== b.at) return a.at - b.at;
  const [left, right] = [`${a.topic}:${a.group}:${a.letter}`, `${b.topic}:${b.group}:${b.letter}`];
  return left < right ? -1 : left > right ? 1 : 0;
}

function format({ topic, group, letter, at }: Place): string {
  return `${at}:${topic}:${group}:${letter}`;
}

function parse(deadLetterId: string): Place | undefined {
  const parts = /^(\d{1,16}):([A-Za-z0-9._-]{1,200}):([A-Za-z0-9._-]{1,200}):([0-9a-f-]{36})$/.exec(
    deadLetterId,
  );
  if (!parts) return undefined;
  const [, at = "", topic = "", group = "", letter = ""] = parts;
  return { at: Number(at), topic, group, letter };
}
