/**
 * Dead letters: one stream for all groups, a subject for each, an id that is the place in the stream.
 *
 * To get, redrive and remove one cost one or two calls, whatever else is there; a list costs a call for each dead letter
 * that it passes.
 *
 * @module
 */
import { checkRange } from "../../src/core/backoff.ts";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters } from "../../src/ports/dead_letters.ts";
import type { NatsHeaders } from "./driver.ts";
import type { Link } from "./link.ts";
import { readStored, type Stored } from "./stored.ts";
import { copyOf, toDeadLetter, type Wire } from "./message.ts";
import type { Streams } from "./streams.ts";

/** What {@linkcode natsDeadLetters} needs. */
export interface DeadLetterParts {
  readonly link: Link;
  readonly streams: Streams;
  /** Puts a copy into a group, confirmed. */
  readonly send: (topic: string, group: string, copy: Wire) => Promise<void>;
}

interface Found {
  readonly seq: number;
  readonly raw: { readonly headers: NatsHeaders; readonly data: Uint8Array };
  readonly letter: DeadLetter;
}

/** The dead letters of all groups under one prefix. */
export function natsDeadLetters({ link, streams, send }: DeadLetterParts): DeadLetters {
  const name = streams.dead;

  async function look(request: Readonly<Record<string, unknown>>): Promise<Found | undefined> {
    await streams.ensureDead();
    try {
      const stored = await link.api<Stored>("look at dead letters", `STREAM.MSG.GET.${name}`, request);
      const { subject, seq, raw } = readStored(stored);
      const [, topic = "", group = ""] = subject.split(".").map(streams.name);
      return { seq, raw, letter: toDeadLetter(raw, { topic, group, seq }) };
    } catch (error) {
      if (isMillstreamError(error, "NOT_FOUND")) return undefined;
      throw error;
    }
  }

  async function* from(filter: DeadLetterFilter, after: number): AsyncGenerator<DeadLetter> {
    const subject = subjectOf(filter);
    for (let seq = after + 1;;) {
      const found = await look({ seq, next_by_subj: subject });
      if (!found) return;
      if (matches(found.letter, filter)) yield found.letter;
      seq = found.seq + 1;
    }
  }

  function subjectOf({ topic, group }: DeadLetterFilter): string {
    const [first, second] = [topic, group].map((part) => part === undefined ? "*" : streams.token(part));
    return `${name}.${first}.${second}`;
  }

  async function remove(seq: number): Promise<boolean> {
    try {
      await link.api("remove a dead letter", `STREAM.MSG.DELETE.${name}`, { seq, no_erase: true });
      return true;
    } catch (error) {
      // Somebody else was faster.
      if (isMillstreamError(error) && /no message found|not found|delete/i.test(error.message)) return false;
      throw error;
    }
  }

  return {
    async list(filter, { limit, after }) {
      checkRange("limit", limit, 1, 10_000, true);
      const letters: DeadLetter[] = [];
      for await (const letter of from(filter, parse(after ?? "") ?? 0)) {
        letters.push(letter);
        if (letters.length === limit) break;
      }
      return letters;
    },
    async count(filter) {
      const { type, error, before } = filter;
      if (type === undefined && error === undefined && before === undefined) {
        let sum = 0;
        for (const count of (await countDead(link, streams, subjectOf(filter))).values()) sum += count;
        return sum;
      }
      let count = 0;
      for await (const _ of from(filter, 0)) count++;
      return count;
    },
    async get(deadLetterId) {
      const seq = parse(deadLetterId);
      return seq === undefined ? undefined : (await look({ seq }))?.letter;
    },
    async redrive(deadLetterId) {
      const seq = parse(deadLetterId);
      const found = seq === undefined ? undefined : await look({ seq });
      if (!found) return false;
      const { raw, letter: { topic, group, redrives } } = found;
      // The server recognises the copy that several make; who removes the dead letter has redriven it.
      const facts = { attempt: 1, firstFailedAt: 0, redrives: redrives + 1, delayMs: 0 };
      await send(topic, group, copyOf(raw, facts, `${group}:redrive:${found.seq}`));
      return await remove(found.seq);
    },
    async remove(deadLetterId) {
      const seq = parse(deadLetterId);
      if (seq === undefined) return false;
      await streams.ensureDead();
      return await remove(seq);
    },
  };
}

/** How many dead letters lie under each subject that matches. */
export async function countDead(
  link: Link,
  streams: Streams,
  subject: string,
): Promise<ReadonlyMap<string, number>> {
  await streams.ensureDead();
  const request = { subjects_filter: subject };
  const { state } = await link.api<{ state: { subjects?: Readonly<Record<string, number>> } }>(
    "count dead letters",
    `STREAM.INFO.${streams.dead}`,
    request,
  );
  return new Map(Object.entries(state.subjects ?? {}));
}

function matches(letter: DeadLetter, { type, error, before }: DeadLetterFilter): boolean {
  return (type === undefined || letter.type === type) &&
    (error === undefined || letter.failure.error === error) &&
    (before === undefined || letter.failure.at < before);
}

function parse(deadLetterId: string): number | undefined {
  const seq = /^[1-9]\d{0,15}$/.test(deadLetterId) ? Number(deadLetterId) : NaN;
  return Number.isSafeInteger(seq) ? seq : undefined;
}
