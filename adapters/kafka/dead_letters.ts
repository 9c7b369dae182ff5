/**
 * Dead letters: a compacted topic of one partition for each group.
 *
 * A letter is a record whose key is its place in the group's topics, so that burying it again after a crash replaces it.
 * It is gone when a record without a value has its key. Redriving and removing are decided by the log itself: whoever
 * wants a letter appends a claim, reads on up to it, and goes ahead if no valid claim stands before it. The claim of a
 * process that died half-way is void after a while; its successor may then repeat what it did, with the same message id.
 *
 * @module
 */
import type { BindingMode } from "../../src/core/binding.ts";
import { checkRange } from "../../src/core/backoff.ts";
import { describe, MillstreamError } from "../../src/core/errors.ts";
import type { DeadLetter, DeadLetterFilter, DeadLetters, Failure } from "../../src/ports/dead_letters.ts";
import type { KafkaDriver, KafkaRecord, NewRecord } from "./driver.ts";
import { type GroupNames, groupNames, ownerOf } from "./names.ts";
import type { Item } from "./partition.ts";
import { fromRecord, toRecord } from "./record.ts";

/** Dead letters, and the way in. */
export interface DeadLetterOffice extends DeadLetters {
  /** Keeps the letter of an item. Resolves when the broker has it. */
  bury(names: GroupNames, item: Item, failure: Failure): Promise<void>;
}

/** What dead letters need. */
export interface DeadLetterContext {
  readonly driver: KafkaDriver;
  readonly mode: BindingMode;
  /** Where a redriven message belongs. */
  redrivenPartition(names: GroupNames, key: string | undefined): Promise<number>;
}

const FACTS = "millstream-dead-letter";
const CLAIM = "claim ";
const CLAIM_MS = 15_000;
const ID = /^([A-Za-z0-9][\w.-]{0,199})~([A-Za-z0-9][\w.-]{0,199})~([mr]\d{1,6}-\d{1,16})$/;

interface Grave {
  readonly letter: DeadLetter;
  /** When the broker took it in first. */
  readonly at: number;
}

/** What a dead-letter topic says, as far as it was read. */
interface Cemetery {
  next: number;
  readonly graves: Map<string, Grave>;
  /** When letters that are gone came in, for pages that go on after them. */
  readonly gone: Map<string, number>;
  readonly claims: Map<string, { readonly by: string; readonly at: number }>;
  reading: Promise<void>;
}

/** The dead letters of all groups on a cluster. */
export function deadLetterOffice({ driver, mode, redrivenPartition }: DeadLetterContext): DeadLetterOffice {
  const cemeteries = new Map<string, Cemetery>();

  /** What the topic says now, at least up to and with the record at `atLeast`. */
  async function readUp(names: GroupNames, atLeast = -1): Promise<Cemetery> {
    let cemetery = cemeteries.get(names.dead);
    if (!cemetery) {
      const empty = { next: 0, graves: new Map(), gone: new Map(), claims: new Map() };
      cemeteries.set(names.dead, cemetery = { ...empty, reading: Promise.resolve() });
    }
    const { reading } = cemetery;
    const mine = cemetery.reading = reading.catch(() => {}).then(() => readOn(names, cemetery, atLeast));
    await mine;
    return cemetery;
  }

  async function readOn(names: GroupNames, cemetery: Cemetery, atLeast: number): Promise<void> {
    const partition = { topic: names.dead, partition: 0 };
    const [end = 0] = await driver.offsets(names.dead, "end");
    const until = Math.max(end, atLeast + 1);
    while (cemetery.next < until) {
      const records = await driver.read(partition, cemetery.next, until);
      for (const record of records) apply(names, cemetery, record);
      cemetery.next = records.length === 0 ? until : records[records.length - 1]!.offset + 1;
    }
  }

  async function groupsOf({ topic, group }: DeadLetterFilter): Promise<readonly GroupNames[]> {
    const names = (await driver.listTopics()).flatMap((name) => {
      const owner = ownerOf(name);
      return owner?.dead === name ? [owner] : [];
    });
    return names.filter((owner) =>
      (topic === undefined || owner.topic === topic) && (group === undefined || owner.group === group)
    );
  }

  async function find(
    deadLetterId: string,
  ): Promise<{ names: GroupNames; key: string; grave: Grave } | undefined> {
    const [, topic, group, key] = ID.exec(deadLetterId) ?? [];
    if (!topic || !group || !key) return undefined;
    const names = groupNames(topic, group);
    if (await driver.partitionCount(names.dead) === 0) return undefined;
    const grave = (await readUp(names)).graves.get(key);
    return grave && { names, key, grave };
  }

  /** Takes a letter away, if this call is the one that may. @param first What must be done before it is gone. */
  async function takeAway(
    deadLetterId: string,
    first: (names: GroupNames, letter: DeadLetter) => Promise<void>,
  ): Promise<boolean> {
    const found = await find(deadLetterId);
    if (!found) return false;
    const { names, key } = found;
    const by = crypto.randomUUID();
    const place = { topic: names.dead, partition: 0, headers: {} };
    const claim = { ...place, key: CLAIM + key, value: by };
    const offsets = await driver.append([claim]);
    const cemetery = await readUp(names, offsets.get(`${names.dead}/0`));
    const grave = cemetery.graves.get(key);
    if (!grave || cemetery.claims.get(key)?.by !== by) return false;
    await first(names, grave.letter);
    await driver.append([{ ...place, key, value: null }, { ...place, key: CLAIM + key, value: null }]);
    return true;
  }

  return {
    async list(filter, { limit, after }) {
      checkRange("limit", limit, 1, 1_000_000, true);
      const graves: Grave[] = [];
      let beginning: Place | undefined;
      for (const names of await groupsOf(filter)) {
        const cemetery = await readUp(names);
        graves.push(...cemetery.graves.values());
        beginning ??= after === undefined ? undefined : placeOf(after, names, cemetery);
      }
      if (after !== undefined && !beginning) throw unknownPlace(after);
      return graves
        .filter(({ letter, at }) => !beginning || isAfter({ at, id: letter.deadLetterId }, beginning))
        .filter(({ letter }) => matches(letter, filter))
        .sort((a, b) =>
          isAfter({ at: a.at, id: a.letter.deadLetterId }, { at: b.at, id: b.letter.deadLetterId }) ? 1 : -1
        )
        .slice(0, limit)
        .map(({ letter }) => letter);
    },
    async count(filter) {
      let count = 0;
      for (const names of await groupsOf(filter)) {
        for (const { letter } of (await readUp(names)).graves.values()) if (matches(letter, filter)) count++;
      }
      return count;
    },
    get: async (deadLetterId) => (await find(deadLetterId))?.grave.letter,
    redrive: (deadLetterId) =>
      takeAway(deadLetterId, async (names, { id, type, key, body, redrives }) => {
        const partition = await redrivenPartition(names, key);
        const message = key === undefined ? { id, type, body } : { id, type, key, body };
        await driver.append([
          toRecord(message, { topic: names.redriven, partition }, mode, { redrives: redrives + 1 }),
        ]);
      }),
    remove: (deadLetterId) => takeAway(deadLetterId, () => Promise.resolve()),
    async bury(names, item, failure) {
      const { attempt: attempts, redrives, firstFailedAt } = item;
      const facts = { attempts, redrives, firstFailedAt: firstFailedAt || failure.at, failure };
      const record = toRecord(item.message, { topic: names.dead, partition: 0 }, mode);
      const headers = { ...record.headers, [FACTS]: JSON.stringify(facts) };
      await driver.append([{ ...record, key: keyOf(names, item), headers } satisfies NewRecord]);
    },
  };
}

function keyOf(names: GroupNames, { partition: { topic, partition }, offset }: Item): string {
  return `${topic === names.redriven ? "r" : "m"}${partition}-${offset}`;
}

function apply(names: GroupNames, { graves, gone, claims }: Cemetery, record: KafkaRecord): void {
  const { key, value, timestamp: at, headers } = record;
  if (key === null) return; // not ours
  if (key.startsWith(CLAIM)) {
    const wanted = key.slice(CLAIM.length);
    const earlier = claims.get(wanted);
    if (value === null) claims.delete(wanted);
    else if (!earlier || at - earlier.at > CLAIM_MS) claims.set(wanted, { by: value, at });
    return;
  }
  const before = graves.get(key);
  if (value === null) {
    graves.delete(key);
    if (before) gone.set(key, before.at);
    return;
  }
  const facts = factsOf(headers[FACTS]);
  if (!facts) return; // not ours
  const { topic, group } = names;
  const message = fromRecord({ ...record, key: null });
  const letter = { ...message, deadLetterId: idOf(names, key), topic, group, ...facts };
  graves.set(key, { letter: Object.freeze(letter), at: before?.at ?? at });
}

type Facts = Pick<DeadLetter, "attempts" | "redrives" | "firstFailedAt" | "failure">;

function factsOf(text: string | undefined): Facts | undefined {
  try {
    return text === undefined ? undefined : JSON.parse(text) as Facts;
  } catch {
    return undefined;
  }
}

function idOf({ topic, group }: GroupNames, key: string): string {
  return `${topic}~${group}~${key}`;
}

/** A place in the order of dead letters. */
interface Place {
  readonly at: number;
  readonly id: string;
}

function isAfter(one: Place, other: Place): boolean {
  return one.at > other.at || (one.at === other.at && one.id > other.id);
}

function placeOf(id: string, names: GroupNames, { graves, gone }: Cemetery): Place | undefined {
  const key = ID.exec(id)?.[3];
  if (key === undefined || id !== idOf(names, key)) return undefined;
  const at = graves.get(key)?.at ?? gone.get(key);
  return at === undefined ? undefined : { at, id };
}

function unknownPlace(after: string): MillstreamError {
  return new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot list dead letters after ${describe(after)}: expected the id of a dead letter`,
  );
}

function matches(letter: DeadLetter, { type, error, before }: DeadLetterFilter): boolean {
  return (type === undefined || letter.type === type) &&
    (error === undefined || letter.failure.error === error) &&
    (before === undefined || letter.failure.at < before);
}
