/**
 * How deliveries end. Every settlement is one script on the broker's shared connection, fenced by owner and delivery
 * count, and repeated once if its reply was lost: each of them may run twice without doing more than once.
 *
 * @module
 */
import { isMillstreamError } from "../core/errors.ts";
import type { Observer } from "../core/observer.ts";
import type { Delivery } from "../ports/broker.ts";
import type { Failure } from "../ports/dead_letters.ts";
import type { RedisArgument, RedisConnection, RedisReply, RedisScript } from "../ports/redis.ts";
import { type Membership, placeOf } from "./delivery.ts";
import { encodeHeader } from "./entry.ts";
import { laneKeys } from "./keys.ts";
import { ACK, ACK_IN_TIME, BEGIN, DEAD_LETTER, EXTEND, RELEASE, RETRY } from "./lua/settle.ts";
import { asUnavailable } from "./replies.ts";

/** What {@linkcode settler} needs. */
export interface SettlerContext {
  readonly member: Membership;
  readonly connection: RedisConnection;
  readonly observe: Observer;
  readonly timeoutMs: number;
}

/** The settling half of a `Subscription`. */
export interface Settler {
  ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]>;
  retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean>;
  deadLetter(delivery: Delivery, failure: Failure): Promise<boolean>;
  begin(delivery: Delivery): Promise<number | undefined>;
  extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]>;
  release(deliveries: readonly Delivery[]): Promise<void>;
}

/** Entries per script call: while it runs, the server does nothing else. */
const PER_CALL = 500;
const RELEASED_PER_CALL = 100;

/** Creates the {@linkcode Settler} of a consumer. */
export function settler({ member, connection, observe, timeoutMs }: SettlerContext): Settler {
  const { topic, group, consumer, leaseMs, keys, ledger } = member;
  const lanes = laneKeys(keys);
  let beginning: Beginning[] = [];

  async function ack(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const lost: Delivery[] = [];
    for (const part of parts(open(deliveries), PER_CALL)) {
      if (await ackInTime(part)) {
        for (const { token } of part) ledger.settle(token);
      } else {
        const refused = await run(ACK, lanes, [group, consumer, ...part.flatMap(laneArgs)]);
        lost.push(...settleAllBut(refused as readonly number[], part));
      }
    }
    return lost;
  }

  async function ackInTime(deliveries: readonly Delivery[]): Promise<boolean> {
    let until = Infinity;
    const logIds: string[] = [];
    const retryIds: string[] = [];
    const keyed: string[] = [];
    for (const { token, key } of deliveries) {
      until = Math.min(until, ledger.until(token));
      if (until === 0) return false;
      const end = token.lastIndexOf(":");
      (token.startsWith("1") ? retryIds : logIds).push(token.slice(2, end));
      if (key !== undefined) keyed.push(token.slice(0, end), key);
    }
    const args = [group, until, logIds.length, retryIds.length, ...logIds, ...retryIds, ...keyed];
    return await run(ACK_IN_TIME, lanes, args) === 1;
  }

  async function retry(delivery: Delivery, delayMs: number, failure: Failure): Promise<boolean> {
    return await settleOne(delivery, RETRY, [...lanes, keys.later], failure, Math.ceil(delayMs));
  }

  async function deadLetter(delivery: Delivery, failure: Failure): Promise<boolean> {
    return await settleOne(delivery, DEAD_LETTER, [...lanes, keys.dead], failure, JSON.stringify(failure));
  }

  async function settleOne(
    delivery: Delivery,
    script: RedisScript,
    names: readonly string[],
    failure: Failure,
    last: RedisArgument,
  ): Promise<boolean> {
    if (ledger.isSettled(delivery.token)) return true;
    const head = [group, consumer, ...placeArgs(delivery), Math.floor(failure.at)];
    const tail = [headerOf(delivery), delivery.body, last];
    const until = ledger.until(delivery.token);
    const reply = await run(script, names, [...head, 0, ...tail], [...head, until, ...tail]);
    return settleAllBut(reply === 1 ? [] : [0], [delivery]).length === 0;
  }

  /** Those who begin in the same tick go together, and so do those who come while a call is under way. */
  function begin(delivery: Delivery): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      beginning.push({ delivery, resolve, reject });
      if (beginning.length === 1) queueMicrotask(() => void beginAll());
    });
  }

  async function beginAll(): Promise<void> {
    const all = beginning;
    beginning = [];
    for (const part of parts(all, PER_CALL)) {
      const until = Math.min(...part.map(({ delivery }) => ledger.until(delivery.token)));
      const args = [group, consumer, until, ...part.flatMap(({ delivery }) => laneArgs(delivery))];
      try {
        const counts = await run(BEGIN, lanes, args) as readonly number[];
        part.forEach(({ delivery, resolve }, place) => {
          const count = counts[place] ?? -1;
          if (count < 0) loseAll([0], [delivery]);
          resolve(count < 0 ? undefined : count);
        });
      } catch (error) {
        for (const { reject } of part) reject(error);
      }
    }
  }

  async function extend(deliveries: readonly Delivery[]): Promise<readonly Delivery[]> {
    const lost: Delivery[] = [];
    for (const part of parts(open(deliveries), PER_CALL)) {
      const reply = await run(EXTEND, lanes, [group, consumer, ...part.flatMap(laneArgs)]);
      const [now, refused] = reply as readonly [number, readonly number[]];
      for (const { token } of part) if (!ledger.isSettled(token)) ledger.hold(token, now + leaseMs);
      lost.push(...loseAll(refused, part));
    }
    return lost;
  }

  async function release(deliveries: readonly Delivery[]): Promise<void> {
    for (const part of parts(open(deliveries), RELEASED_PER_CALL)) {
      const refused = await run(RELEASE, lanes, [group, consumer, ...part.flatMap(laneArgs)]);
      settleAllBut(refused as readonly number[], part);
    }
  }

  /** Runs a script, and runs it again with `again` if its reply was lost. */
  async function run(
    script: RedisScript,
    names: readonly string[],
    args: readonly RedisArgument[],
    again: readonly RedisArgument[] = args,
  ): Promise<RedisReply> {
    try {
      return await connection.script(script, names, args, { timeoutMs });
    } catch (error) {
      if (!isMillstreamError(error, "PUBLISH_INDETERMINATE")) throw error;
    }
    try {
      return await connection.script(script, names, again, { timeoutMs });
    } catch (error) {
      throw asUnavailable(error);
    }
  }

  function open(deliveries: readonly Delivery[]): readonly Delivery[] {
    return deliveries.filter(({ token }) => !ledger.isSettled(token));
  }

  function settleAllBut(refused: readonly number[], deliveries: readonly Delivery[]): readonly Delivery[] {
    for (const { token } of deliveries) ledger.settle(token);
    return loseAll(refused, deliveries);
  }

  function loseAll(places: readonly number[], deliveries: readonly Delivery[]): readonly Delivery[] {
    const lost = places.map((place) => deliveries[place]).filter((delivery) => delivery !== undefined);
    for (const { id, token } of lost) {
      ledger.lose(token);
      observe({ kind: "lease-lost", what: `${topic}/${group}`, id });
    }
    return lost;
  }

  return { ack, retry, deadLetter, begin, extend, release };
}

/** A handler that is about to begin. */
interface Beginning {
  readonly delivery: Delivery;
  resolve(count: number | undefined): void;
  reject(error: unknown): void;
}

function laneArgs(delivery: Delivery): readonly RedisArgument[] {
  return [...placeArgs(delivery), delivery.key ?? ""];
}

function placeArgs(delivery: Delivery): readonly RedisArgument[] {
  const { kind, entryId, count } = placeOf(delivery.token);
  return [kind, entryId, count];
}

/** A message of foreign origin may have what a header cannot hold; then its body says what it is. */
function headerOf(delivery: Delivery): string {
  try {
    return encodeHeader(delivery);
  } catch {
    return "body";
  }
}

function parts<T>(items: readonly T[], size: number): ReadonlyArray<readonly T[]> {
  if (items.length <= size) return items.length > 0 ? [items] : [];
  const count = Math.ceil(items.length / size);
  return Array.from({ length: count }, (_, index) => items.slice(index * size, (index + 1) * size));
}
