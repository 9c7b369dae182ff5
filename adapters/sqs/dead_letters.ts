/**
 * Dead letters: a queue for each group.
 *
 * SQS cannot look at messages without taking them. So every question takes all letters of the queue for a while, and
 * gives back those that it does not keep. Who asks meanwhile finds letters missing, notices by the counts of the queue
 * that somebody else has them, and waits. A letter that is taken is nobody else's: that makes redriving it once safe.
 *
 * @module
 */
import type { BindingMode } from "../../src/core/binding.ts";
import { checkRange } from "../../src/core/backoff.ts";
import { type Clock, sleep } from "../../src/core/clock.ts";
import { describe, MillstreamError } from "../../src/core/errors.ts";
import type { EncodedMessage } from "../../src/core/message.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../../src/ports/dead_letters.ts";
import type { SqsCall } from "./client.ts";
import { countQueue } from "./counts.ts";
import {
  attributeOf,
  fromSqs,
  NO_NOTES,
  type Notes,
  notesOf,
  receivesOf,
  type SqsContent,
  type SqsMessage,
  toContent,
} from "./message.ts";
import type { GroupAddress, Queues } from "./queues.ts";
import { deleteAll, hideAll, receive } from "./receipts.ts";

/** Dead letters, and the way in. */
export interface DeadLetterOffice extends DeadLetters {
  /** Keeps a letter. Resolves when SQS has it. */
  bury(address: GroupAddress, message: EncodedMessage, notes: Notes, failure: Failure): Promise<void>;
}

/** What dead letters need. */
export interface DeadLetterContext {
  readonly call: SqsCall;
  readonly clock: Clock;
  readonly mode: BindingMode;
  readonly queues: Queues;
  /** Puts content into a queue. */
  put(queueUrl: string, message: EncodedMessage, content: SqsContent): Promise<void>;
  /** Sends a message to one group. */
  resend(address: GroupAddress, message: EncodedMessage, notes: Notes): Promise<void>;
}

const FACTS = "millstream-dead-letter";
const ID = /^([A-Za-z0-9][\w.-]{0,199})~([A-Za-z0-9][\w.-]{0,199})~([0-9a-z]{1,11}-[0-9a-f-]{8,36})$/;
/** How long the letters are hidden from others by a question. */
const TAKEN_S = 10;
/** How long to wait for letters that somebody else has taken. */
const PATIENCE_MS = (TAKEN_S + 2) * 1_000;
/** The failure is cut so that it fits beside a message of any size. */
const MAX_STACK = 1_000;

interface Taken {
  readonly letter: DeadLetter;
  readonly at: string;
  readonly handle: string;
}

/** The dead letters of all groups. */
export function deadLetterOffice(context: DeadLetterContext): DeadLetterOffice {
  const { call, clock, mode, queues } = context;
  const turns = new Map<string, Promise<unknown>>();

  /** One question to a queue at a time: two of one process would only wait for each other. */
  function inTurn<T>(queueUrl: string, work: () => Promise<T>): Promise<T> {
    const mine = (turns.get(queueUrl) ?? Promise.resolve()).catch(() => {}).then(work);
    turns.set(queueUrl, mine);
    mine.catch(() => {}).finally(() => turns.get(queueUrl) === mine && turns.delete(queueUrl));
    return mine;
  }

  /** Takes all letters, uses them, and gives back those that are not kept. */
  function withLetters<T>(
    address: GroupAddress,
    use: (letters: readonly Taken[]) => Promise<{ value: T; gone?: Taken }>,
  ): Promise<T> {
    const { deadQueueUrl } = address;
    return inTurn(deadQueueUrl, async () => {
      const taken = await takeAll(address);
      let gone: Taken | undefined;
      try {
        const result = await use(taken);
        gone = result.gone;
        return result.value;
      } finally {
        const back = taken.filter((letter) => letter !== gone).map(({ handle }) => handle);
        await hideAll(call, deadQueueUrl, back, 0).catch(() => {}); // they come back by themselves
      }
    });
  }

  async function takeAll(address: GroupAddress): Promise<readonly Taken[]> {
    const { deadQueueUrl } = address;
    const taken = new Map<string, Taken>();
    const deadline = clock.monotonic() + PATIENCE_MS;
    const settledBy = clock.monotonic() + TAKEN_S * 500;
    while (clock.monotonic() < settledBy || taken.size === 0) {
      const messages = await receive(call, deadQueueUrl, { max: 10, leaseS: TAKEN_S, waitS: 0 });
      for (const message of messages) taken.set(message.MessageId, toTaken(address, message));
      if (messages.length > 0) continue;
      const { ready, inFlight, delayed } = await countQueue(call, deadQueueUrl);
      if (ready + inFlight + delayed <= taken.size || clock.monotonic() > deadline) break;
      await sleep(clock, 20 + Math.random() * 30); // somebody else has some
    }
    return [...taken.values()];
  }

  async function addresses({ topic, group }: DeadLetterFilter): Promise<readonly GroupAddress[]> {
    const found = topic === undefined ? await queues.all() : await queues.groupsOf(topic);
    return found.filter((address) => group === undefined || address.group === group);
  }

  async function one<T>(
    deadLetterId: string,
    absent: T,
    use: (address: GroupAddress, taken: Taken) => Promise<{ value: T; gone?: Taken }>,
  ): Promise<T> {
    const [, topic, group] = ID.exec(deadLetterId) ?? [];
    const address = topic && group ? await queues.find(topic, group) : undefined;
    if (!address) return absent;
    return await withLetters(address, async (letters) => {
      const taken = letters.find(({ letter }) => letter.deadLetterId === deadLetterId);
      return taken ? await use(address, taken) : { value: absent };
    });
  }

  async function remove(address: GroupAddress, taken: Taken): Promise<{ value: boolean; gone: Taken }> {
    await deleteAll(call, address.deadQueueUrl, [taken.handle]);
    return { value: true, gone: taken };
  }

  return {
    async list(filter, { limit, after }) {
      checkRange("limit", limit, 1, 1_000_000, true);
      const start = after === undefined ? undefined : placeOf(after);
      const lists = await Promise.all(
        (await addresses(filter)).map((address) =>
          withLetters(address, (letters) => Promise.resolve({ value: letters }))
        ),
      );
      return lists.flat()
        .filter(({ letter, at }) =>
          matches(letter, filter) && (start === undefined || isAfter(at, letter.deadLetterId, start))
        )
        .sort((a, b) =>
          isAfter(a.at, a.letter.deadLetterId, { at: b.at, id: b.letter.deadLetterId }) ? 1 : -1
        )
        .slice(0, limit)
        .map(({ letter }) => letter);
    },
    async count(filter) {
      const { type, error, before } = filter;
      const counts = (await addresses(filter)).map(async (address) => {
        if (type === undefined && error === undefined && before === undefined) {
          const { ready, inFlight, delayed } = await countQueue(call, address.deadQueueUrl);
          return ready + inFlight + delayed;
        }
        return await withLetters(
          address,
          (letters) =>
            Promise.resolve({ value: letters.filter(({ letter }) => matches(letter, filter)).length }),
        );
      });
      return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
    },
    get: (id) =>
      one<DeadLetter | undefined>(id, undefined, (_, { letter }) => Promise.resolve({ value: letter })),
    redrive: (id) =>
      one(id, false, async (address, taken) => {
        const { id, type, key, body, redrives } = taken.letter;
        const message = key === undefined ? { id, type, body } : { id, type, key, body };
        await context.resend(address, message, { ...NO_NOTES, redrives: redrives + 1 });
        return await remove(address, taken);
      }),
    remove: (id) => one(id, false, remove),
    async bury(address, message, { attempt: attempts, redrives, firstFailedAt }, failure) {
      const at = clock.now();
      const short = failure.stack === undefined
        ? failure
        : { ...failure, stack: failure.stack.slice(0, MAX_STACK) };
      const id = `${Math.floor(at).toString(36)}-${crypto.randomUUID()}`;
      const facts: Facts = {
        id,
        attempts,
        redrives,
        firstFailedAt: firstFailedAt || failure.at,
        failure: short,
      };
      await context.put(
        address.deadQueueUrl,
        message,
        toContent(message, mode, NO_NOTES, { [FACTS]: JSON.stringify(facts) }),
      );
    },
  };
}

interface Facts extends Pick<DeadLetter, "attempts" | "redrives" | "firstFailedAt" | "failure"> {
  readonly id: string;
}

function toTaken({ topic, group }: GroupAddress, message: SqsMessage): Taken {
  const { id, ...facts } = factsOf(message);
  const letter = { ...fromSqs(message), deadLetterId: `${topic}~${group}~${id}`, topic, group, ...facts };
  return { letter, at: id.split("-")[0]!, handle: message.ReceiptHandle };
}

function factsOf(message: SqsMessage): Facts {
  try {
    const text = attributeOf(message, FACTS);
    if (text !== undefined) return JSON.parse(text) as Facts;
  } catch {
    // not ours
  }
  // SQS moved it here itself, by the queue's redrive policy.
  const at = Number(message.Attributes?.SentTimestamp ?? 0);
  const { redrives, firstFailedAt } = notesOf(message);
  const failure = {
    error: "MaxReceives",
    message: "received more often than the queue's redrive policy allows",
    at,
  };
  const id = `${at.toString(36)}-${message.MessageId}`;
  return { id, attempts: receivesOf(message), redrives, firstFailedAt: firstFailedAt || at, failure };
}

interface Place {
  readonly at: string;
  readonly id: string;
}

function placeOf(deadLetterId: string): Place {
  const [at] = ID.exec(deadLetterId)?.[3]?.split("-") ?? [];
  if (at !== undefined) return { at, id: deadLetterId };
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot list dead letters after ${describe(deadLetterId)}: expected the id of a dead letter`,
  );
}

function isAfter(at: string, id: string, place: Place): boolean {
  const [one, other] = [parseInt(at, 36), parseInt(place.at, 36)];
  return one > other || (one === other && id > place.id);
}

function matches(letter: DeadLetter, { type, error, before }: DeadLetterFilter): boolean {
  return (type === undefined || letter.type === type) &&
    (error === undefined || letter.failure.error === error) &&
    (before === undefined || letter.failure.at < before);
}
