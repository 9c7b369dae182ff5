/**
 * Loading an aggregate from a snapshot. Events are the truth: a snapshot counts only if the stream still has, at the
 * snapshot's version, the event it was made after. One that does not, that cannot be read, or that another fold made is
 * left aside, and all events are folded.
 *
 * @module
 */
import { describe, toError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import { stringifyStrict } from "../core/json.ts";
import { validate } from "../core/schema.ts";
import type { StoredEvent } from "../ports/event_store.ts";
import type { Snapshot } from "../ports/snapshots.ts";
import type { Aggregate, SnapshotPolicy } from "./aggregate.ts";
import { eventIdOf, foldStream, type Loaded, type LoadParts, nothing } from "./handle_command.ts";

const PAGE = 1_000;

/** As `load`, from the stream's snapshot if it has one that can be trusted. Makes a new one when it is time. */
export async function loadFromSnapshot<State>(
  parts: LoadParts,
  aggregate: Aggregate<State>,
  stream: string,
  commandId: string | undefined,
): Promise<Loaded<State>> {
  const policy = aggregate.snapshots!;
  const fold = await uuidv5(policy.fold);
  const [start, isRepeated] = await Promise.all([
    trusted(parts, policy, { stream, fold }),
    // A repeated command must find the events it caused, and they may lie before the snapshot.
    commandId === undefined
      ? false
      : eventIdOf(commandId, stream, 0).then((id) => parts.events.has(stream, id)),
  ]);
  const loaded = start && !isRepeated
    ? await foldStream(parts, aggregate, stream, {
      from: { ...nothing(aggregate, stream), ...start.at, state: start.state as State },
      commandId,
      ...(start.page ? { page: start.page } : {}),
    })
    : await foldStream(parts, aggregate, stream, { from: nothing(aggregate, stream), commandId });
  if (loaded.version - (start?.at.version ?? 0) >= policy.every) await save(parts, stream, fold, loaded);
  return loaded;
}

interface Trusted {
  readonly state: unknown;
  readonly at: Pick<Loaded<unknown>, "version" | "position" | "eventId">;
  /** The events after it, if they were read to the end. */
  readonly page: readonly StoredEvent[] | undefined;
}

/** The snapshot and what follows it in the stream, if they belong together. */
async function trusted(
  { events, snapshots, observer }: LoadParts,
  { state: schema }: SnapshotPolicy,
  { stream, fold }: Pick<Snapshot, "stream" | "fold">,
): Promise<Trusted | undefined> {
  try {
    const snapshot = await snapshots.load(stream, fold);
    if (!snapshot) return undefined;
    const parsed: unknown = JSON.parse(snapshot.state);
    if (schema) await validate(schema, parsed, "snapshot"); // only to check it: what was saved is what is used
    // From the event of the snapshot on: it must be the one that the snapshot was made after.
    const [first, ...page] = await events.readStream(stream, { from: snapshot.version, limit: PAGE });
    if (first?.id === snapshot.eventId) {
      const { version, position, id } = first;
      const at = { version, position, eventId: id };
      return { state: parsed, at, page: page.length < PAGE - 1 ? page : undefined };
    }
    const reason = `version ${snapshot.version} of the stream is ${
      first ? `event ${describe(first.id)}` : "not there"
    }, expected event ${describe(snapshot.eventId)}`;
    observer({ kind: "snapshot-ignored", stream, reason });
  } catch (failure) {
    observer({ kind: "snapshot-ignored", stream, reason: toError(failure).message });
  }
  return undefined;
}

/** A snapshot that cannot be made is reported; the command does not depend on it. */
async function save<State>(
  { snapshots, observer }: LoadParts,
  stream: string,
  fold: string,
  { state, version, eventId }: Loaded<State>,
): Promise<void> {
  try {
    await snapshots.save({ stream, fold, version, eventId: eventId!, state: stringifyStrict(state, {}) });
  } catch (failure) {
    observer({ kind: "snapshot-ignored", stream, reason: toError(failure).message });
  }
}
