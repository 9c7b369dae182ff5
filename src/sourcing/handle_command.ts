/**
 * A command on an aggregate: load, fold, decide, append.
 *
 * @module
 */
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { type Clock, sleep } from "../core/clock.ts";
import { decodeStored } from "../core/codec.ts";
import { upgrade } from "../core/definition.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import { type Random, uuidv5 } from "../core/ids.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import type { Observer } from "../core/observer.ts";
import type { AppendResult, EventStore, StoredEvent } from "../ports/event_store.ts";
import type { Snapshots } from "../ports/snapshots.ts";
import { inherited, type MessageFactory } from "../messaging/factory.ts";
import type { Aggregate } from "./aggregate.ts";

/** What loading an aggregate needs. */
export interface LoadParts {
  readonly events: EventStore;
  readonly snapshots: Snapshots;
  readonly observer: Observer;
}

/** What handling a command needs. */
export interface CommandParts extends LoadParts {
  readonly factory: MessageFactory;
  readonly clock: Clock;
  readonly random: Random;
}

/** An aggregate as it stands. */
export interface Loaded<State> {
  readonly state: State;
  readonly version: number;
  readonly position: bigint;
  /** The id of the last event. */
  readonly eventId: string | undefined;
  /** Version and position after the events that this command id caused earlier, if it did. */
  readonly handled: { readonly version: number; readonly position: bigint } | undefined;
}

const PAGE = 1_000;
const CONFLICTS = retryPolicy({ attempts: 10, baseMs: 5, maxMs: 250 });

/**
 * Handles a command. If another writer was faster, it loads and decides anew, at most ten times. A command whose id
 * has already caused events in the stream is not decided again: the earlier outcome is returned.
 *
 * @returns where the stream stands afterwards.
 * @throws `REFUSED` as decided; `CONCURRENCY_CONFLICT` after the last try.
 */
export async function handleCommand<State>(
  parts: CommandParts,
  aggregate: Aggregate<State>,
  stream: string,
  command: Message,
): Promise<Omit<AppendResult, "stream">> {
  for (let attempt = 1;; attempt++) {
    const loaded = await load(parts, aggregate, stream, command.id);
    if (loaded.handled) return loaded.handled;
    const decided = aggregate.decide(command, loaded.state);
    if (decided instanceof MillstreamError) throw decided;
    if (decided.length === 0) return loaded;
    try {
      const events = await Promise.all(decided.map(async (event, index) => {
        const options: MessageOptions = { ...inherited(command), ...event.options };
        const id = event.options.id ?? await eventIdOf(command.id, stream, index);
        const subject = options.subject ?? stream;
        // What a command caused is how it is known again, so its events cannot say otherwise.
        return await parts.factory.toAppend(event, { ...options, id, subject, causationId: command.id });
      }));
      const [result] = await parts.events.append([{ stream, expected: loaded.version, events }]);
      return result!;
    } catch (failure) {
      if (
        !isMillstreamError(failure, "CONCURRENCY_CONFLICT", "COMMIT_INDETERMINATE") ||
        attempt >= CONFLICTS.attempts
      ) throw failure;
      await sleep(parts.clock, backoffDelay(attempt, CONFLICTS, parts.random));
    }
  }
}

/** The id of an event that a command causes: the same each time it is decided. */
export function eventIdOf(commandId: string, stream: string, index: number): Promise<string> {
  return uuidv5(`${commandId}/${stream}/${index}`);
}

/** Loads and folds an aggregate. Old events are brought to their current version on the way. */
export async function load<State>(
  parts: LoadParts,
  aggregate: Aggregate<State>,
  stream: string,
  commandId?: string,
): Promise<Loaded<State>> {
  if (aggregate.snapshots) {
    // Loaded on demand: most aggregates are short.
    const { loadFromSnapshot } = await import("./snapshots.ts");
    return await loadFromSnapshot(parts, aggregate, stream, commandId);
  }
  return await foldStream(parts, aggregate, stream, { from: nothing(aggregate, stream), commandId });
}

/** The aggregate before its first event. */
export function nothing<State>(aggregate: Aggregate<State>, stream: string): Loaded<State> {
  const state = aggregate.initial(stream.slice(aggregate.name.length + 1));
  return { state, version: 0, position: 0n, eventId: undefined, handled: undefined };
}

/** Folds what follows after `from`; `page` is what was read of it before, if that is all of it. */
export async function foldStream<State>(
  { events }: Pick<LoadParts, "events">,
  aggregate: Aggregate<State>,
  stream: string,
  { from, page, commandId }: {
    readonly from: Loaded<State>;
    readonly page?: readonly StoredEvent[];
    readonly commandId?: string | undefined;
  },
): Promise<Loaded<State>> {
  let { state, version, position, eventId, handled } = from;
  for (let next = page;; next = undefined) {
    const stored = next ?? await events.readStream(stream, { from: version + 1, limit: PAGE });
    for (const one of stored) {
      const definition = aggregate.events.get(one.type);
      if (!definition) throw unknownEvent(aggregate.name, stream, one.type, one.version);
      const event = await upgrade(definition, decodeStored(one.body));
      state = aggregate.evolve(state, event);
      ({ version, position, id: eventId } = one);
      if (commandId !== undefined && event.causationId === commandId) handled = { version, position };
    }
    if (next || stored.length < PAGE) return { state, version, position, eventId, handled };
  }
}

function unknownEvent(name: string, stream: string, type: string, version: number): MillstreamError {
  return new MillstreamError(
    "HANDLER_NOT_FOUND",
    `Cannot load aggregate "${name}" from stream "${stream}": version ${version} is an event "${type}" it does not know`,
    { details: { stream, type, version } },
  );
}
