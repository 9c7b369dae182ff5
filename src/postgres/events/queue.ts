/**
 * Appends of many callers in one statement: what comes while others are under way gathers, and goes out together when
 * one of them returns. One commit then serves all of them, which is most of what a small append costs. The first
 * caller waits for nobody.
 *
 * Whatever happens to one caller's append happens to that one alone:
 *
 * - A conflict, or events that are there already, is an answer per caller, not a failure of the statement. (The short
 *   statement says only who does not fit; a longer one tells why.)
 * - A stream that somebody else has locked is skipped by the statement; its callers are sent again by themselves, where
 *   they may wait. What waits for long gives up its place to others.
 * - If the statement is refused, nothing was written, and each caller's append is sent again alone.
 *
 * Appends to the same stream take effect in the order in which they were called.
 *
 * @module
 */
import { aborted, type Clock } from "../../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../../core/errors.ts";
import type { AppendResult } from "../../ports/event_store.ts";
import type { SqlSession } from "../../ports/sql.ts";
import {
  type AppendRow,
  appendStatement,
  eachStatement,
  isForEach,
  type Outcome,
  outcomes,
  streamOf,
  type Unit,
} from "./append.ts";

/** Appends units, together where that is possible. */
export interface AppendQueue {
  /**
   * Appends one unit.
   *
   * @throws as `EventStore.append`, and `OVERLOADED` if too much waits already or nothing was sent within seconds.
   */
  append(unit: Unit, signal: AbortSignal | undefined): Promise<readonly AppendResult[]>;
  /** Resolves when nothing is under way. */
  drained(): Promise<void>;
}

/** What an {@linkcode appendQueue} needs. */
export interface AppendQueueContext {
  readonly session: SqlSession;
  readonly clock: Clock;
  /** The quoted schema. */
  readonly schema: string;
  /** Called when events were committed. */
  readonly onAppend: () => void;
}

/** Bounds of one statement. */
const EVENTS_PER_CALL = 1_000;
const CHARACTERS_PER_CALL = 4_000_000;
/** Statements at once, those that wait for a lock not counted, and counted. */
const CALLS_AT_ONCE = 2;
const CALLS_IN_ALL = 6;
/** A statement that takes longer than this, in milliseconds, waits for a lock: others may go in its place. */
const PATIENCE_MS = 50;
/** Bounds of what waits in this process: callers, characters and milliseconds. */
const MAX_WAITING = 20_000;
const MAX_WAITING_CHARACTERS = 256_000_000;
const MAX_WAIT_MS = 15_000;

/** A caller. */
interface Waiting {
  readonly unit: Unit;
  readonly since: number;
  settle(outcome: Exclude<Outcome, "busy">): void;
  /**
   * How it is sent: the short way with others; the long way with others, since it did not fit; with those of its stream
   * only, since that was locked; alone, since a statement was refused.
   */
  way: "short" | "long" | "stream" | "alone";
}

/** The queue of one store. */
export function appendQueue({ session, clock, schema, onAppend }: AppendQueueContext): AppendQueue {
  let waiting: Waiting[] = [];
  let characters = 0;
  let scheduled = false;
  let calls = 0;
  let slowCalls = 0;
  const locked = new Set<string>(); // streams of appends under way
  const underway = new Set<Promise<void>>();

  function append(unit: Unit, signal: AbortSignal | undefined): Promise<readonly AppendResult[]> {
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(aborted(signal));
      if (waiting.length >= MAX_WAITING || characters > MAX_WAITING_CHARACTERS) {
        return reject(overloaded(`${waiting.length} callers wait already`));
      }
      const caller: Waiting = {
        unit,
        since: clock.monotonic(),
        way: "short",
        settle(outcome) {
          signal?.removeEventListener("abort", onAbort);
          if (outcome instanceof Error) reject(outcome);
          else resolve(outcome);
        },
      };
      function onAbort(): void {
        const at = waiting.indexOf(caller);
        if (at < 0) return; // sent: its outcome must be awaited
        waiting.splice(at, 1);
        characters -= unit.characters;
        caller.settle(aborted(signal));
      }
      signal?.addEventListener("abort", onAbort, { once: true });
      waiting.push(caller);
      characters += unit.characters;
      schedule();
    });
  }

  /** At the end of the tick, so that what was called in one tick goes out together. */
  function schedule(): void {
    if (scheduled || waiting.length === 0 || !mayCall()) return;
    scheduled = true;
    queueMicrotask(() => {
      scheduled = false;
      flush();
    });
  }

  function mayCall(): boolean {
    return calls - slowCalls < CALLS_AT_ONCE && calls < CALLS_IN_ALL;
  }

  function flush(): void {
    expire();
    while (mayCall()) {
      const callers = take();
      if (callers.length === 0) return;
      const work = call(callers);
      underway.add(work);
      void work.finally(() => underway.delete(work));
    }
  }

  /** Those in front have waited longest. */
  function expire(): void {
    const now = clock.monotonic();
    let count = 0;
    while (waiting[count] && now - waiting[count]!.since > MAX_WAIT_MS) count++;
    for (const caller of waiting.splice(0, count)) {
      characters -= caller.unit.characters;
      caller.settle(overloaded(`it was not sent within ${MAX_WAIT_MS} ms`));
    }
  }

  /** Takes what may go out together, in order, and leaves the rest. */
  function take(): readonly Waiting[] {
    const taken: Waiting[] = [];
    const left: Waiting[] = [];
    const held = new Set(locked); // streams whose next append is not taken: those after it stay behind it
    const idsOf = new Map<string, Set<string>>();
    let events = 0;
    let size = 0;
    let full = false;
    for (const caller of waiting) {
      const { unit } = caller;
      full ||= taken.length > 0 &&
        (events + unit.events > EVENTS_PER_CALL || size + unit.characters > CHARACTERS_PER_CALL);
      if (full || !fits(caller, taken, held) || repeats(unit, idsOf)) {
        for (const { stream } of unit.appends) held.add(stream);
        left.push(caller);
        continue;
      }
      taken.push(caller);
      events += unit.events;
      size += unit.characters;
    }
    waiting = left;
    characters -= size;
    return taken;
  }

  async function call(callers: readonly Waiting[]): Promise<void> {
    const streams = new Set(callers.flatMap(({ unit }) => unit.appends.map(({ stream }) => stream)));
    for (const stream of streams) locked.add(stream);
    let slow = false;
    calls++;
    const cancel = clock.after(PATIENCE_MS, () => {
      slow = true;
      slowCalls++;
      schedule();
    });
    const again = await attempt(callers, streams.size);
    cancel();
    calls--;
    if (slow) slowCalls--;
    for (const stream of streams) locked.delete(stream);
    waiting.unshift(...again);
    for (const { unit } of again) characters += unit.characters;
    schedule();
  }

  /** Settles who can be settled, and returns who must be sent again. */
  async function attempt(callers: readonly Waiting[], streams: number): Promise<readonly Waiting[]> {
    const short = callers.length > 1 && callers.every(({ way }) => way === "short") &&
      isForEach(callers.map(({ unit }) => unit));
    const alone = callers[0]?.way === "alone";
    const sent = short ? [...callers].sort(byStream) : callers;
    const units = sent.map(({ unit }) => unit);
    try {
      const { text, values } = short
        ? eachStatement(schema, units)
        : appendStatement(schema, units, { wait: streams === 1 || units.length === 1, careful: alone });
      const found = outcomes(units, await session.query<AppendRow>(text, values));
      if (found.some((outcome) => Array.isArray(outcome))) onAppend();
      return sent.filter((caller, at) => {
        const outcome = found[at]!;
        if (outcome === "busy") caller.way = short ? "long" : "stream";
        else caller.settle(outcome);
        return outcome === "busy";
      });
    } catch (error) {
      if (!alone && nothingHappened(error) && (callers.length > 1 || isRepetition(error))) {
        for (const caller of callers) caller.way = short ? "long" : "alone";
        return callers;
      }
      for (const caller of callers) caller.settle(failureOf(caller.unit, error));
      return [];
    }
  }

  return {
    append,
    async drained() {
      while (underway.size > 0) await Promise.allSettled(underway);
    },
  };
}

/** Whether the caller may go with those taken before it. */
function fits({ unit, way }: Waiting, taken: readonly Waiting[], held: ReadonlySet<string>): boolean {
  if (unit.appends.some(({ stream }) => held.has(stream))) return false;
  const [first] = taken;
  if (!first) return true;
  if (way === "alone" || first.way === "alone") return false;
  if (way !== "stream" && first.way !== "stream") return true;
  const stream = onlyStream(unit);
  return stream !== undefined && stream === onlyStream(first.unit);
}

/** All processes wait for each other's locks in this order. */
function byStream(a: Waiting, b: Waiting): number {
  const [one, other] = [streamOf(a.unit), streamOf(b.unit)];
  return one < other ? -1 : one > other ? 1 : 0;
}

function onlyStream({ appends }: Unit): string | undefined {
  return appends.length === 1 ? appends[0]?.stream : undefined;
}

/** Whether one of its events is in the same statement already. If not, notes its ids. */
function repeats({ appends }: Unit, idsOf: Map<string, Set<string>>): boolean {
  if (appends.some(({ stream, events }) => events.some(({ id }) => idsOf.get(stream)?.has(id)))) return true;
  for (const { stream, events } of appends) {
    const ids = idsOf.get(stream);
    if (!ids) idsOf.set(stream, new Set(events.map(({ id }) => id)));
    else for (const { id } of events) ids.add(id);
  }
  return false;
}

function nothingHappened(error: unknown): boolean {
  return isMillstreamError(
    error,
    "REJECTED",
    "CONCURRENCY_CONFLICT",
    "DEADLINE_EXCEEDED",
    "INVALID_ARGUMENT",
  );
}

/** unique_violation: one of the events is there already. */
function isRepetition(error: unknown): boolean {
  return isMillstreamError(error) && error.details.sqlState === "23505";
}

function failureOf({ appends }: Unit, error: unknown): MillstreamError {
  if (!isMillstreamError(error)) {
    return new MillstreamError("INTERNAL", "Cannot append: something broke", { cause: error });
  }
  if (error.code !== "COMMIT_INDETERMINATE") return error;
  const streams = appends.map(({ stream }) => stream);
  return new MillstreamError(
    "COMMIT_INDETERMINATE",
    `Cannot tell whether the events for "${streams[0]}" were appended: ${error.message}. ` +
      "Append the same events again",
    { cause: error, details: { ...error.details, streams } },
  );
}

function overloaded(why: string): MillstreamError {
  return new MillstreamError("OVERLOADED", `Cannot append: ${why}; nothing was written`);
}
