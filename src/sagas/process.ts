/**
 * Running process managers: an event or a timer, the state that follows, and all that is sent because of it commit in
 * one transaction, with the note that the event was handled.
 *
 * @module
 */
import { MillstreamError, toError } from "../core/errors.ts";
import { uuidv5 } from "../core/ids.ts";
import type { Message, MessageOptions } from "../core/message.ts";
import { checkText } from "../core/names.ts";
import { validate } from "../core/schema.ts";
import { inherited } from "../messaging/factory.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import { type ClaimedSaga, isFinal, type SagaInstance } from "../ports/saga_store.ts";
import type { StorePorts } from "../ports/store.ts";
import { withHistory } from "./advance.ts";
import { observe, type SagaParts } from "./parts.ts";
import type { ProcessManager, Reaction } from "./process_manager.ts";

/** What an instance of a process manager keeps as its data. */
export interface ProcessData {
  readonly state: unknown;
  /** When timers are due, in milliseconds since 1970. */
  readonly timers: Readonly<Record<string, number>>;
  /** How many reactions there were: makes the ids of what they send. */
  readonly reactions: number;
}

const LEASE_MS = 10_000;
const NEVER = Number.MAX_SAFE_INTEGER;
/** When a timer whose reaction failed is tried again. */
const RETRY_MS = 5_000;

/** The id of an instance among all sagas. */
export function processId({ name }: ProcessManager, id: string): string {
  return checkText("process id", `${name}/${id}`);
}

/** Handles an event for the instance it is for. @throws `UNAVAILABLE` while somebody else holds it: try again. */
export async function reactToEvent(
  parts: SagaParts,
  manager: ProcessManager,
  message: Message,
): Promise<void> {
  const { correlate, react } = manager.events.get(message.type)!;
  const key = correlate(message);
  if (key === undefined) return;
  const id = processId(manager, key);
  await parts.store.transaction(async (ports) => {
    if (!(await ports.inbox.record(`process-${manager.name}`, message.id))) return;
    const claimed = await open(parts, ports, manager, id, message);
    const { instance } = claimed;
    const done = isFinal(instance.status);
    const inherit = inherited(message);
    const next = done ? instance : await apply(parts, ports, manager, instance, {
      cause: message.type,
      inherit,
      reaction: react(dataOf(instance).state, message),
    });
    await close(ports, claimed, next);
  });
  parts.committed();
}

/** Fires the timers of a claimed instance that are due. Never rejects. */
export async function fireTimers(
  parts: SagaParts,
  manager: ProcessManager,
  claimed: ClaimedSaga,
): Promise<void> {
  const { store, clock, observer } = parts;
  const { instance } = claimed;
  try {
    await store.transaction(async (ports) => {
      let next = instance;
      for (const name of dueTimers(instance, clock.now())) {
        const { [name]: _, ...timers } = dataOf(next).timers;
        next = { ...next, data: { ...dataOf(next), timers } };
        const react = manager.timers.get(name);
        if (!react || isFinal(next.status)) continue;
        next = await apply(parts, ports, manager, next, {
          cause: `timer ${name}`,
          inherit: { correlationId: instance.correlationId, causationId: instance.id },
          reaction: react(dataOf(next).state),
        });
      }
      await close(ports, claimed, { ...next, dueAt: nextDue(next) });
    });
    parts.committed();
  } catch (thrown) {
    const error = toError(thrown);
    observer({ kind: "loop-failed", loop: `process ${instance.id}`, error });
    const later = { ...instance, error: error.message, dueAt: clock.now() + RETRY_MS };
    await store.sagas.save([{ claimed, instance: later, release: true }]).catch(() => {}); // the lease runs out
  }
}

/** Takes the instance, or makes it. */
async function open(
  { clock, owner }: SagaParts,
  ports: StorePorts,
  manager: ProcessManager,
  id: string,
  message: Message,
): Promise<ClaimedSaga> {
  const now = clock.now();
  const data: ProcessData = { state: manager.initial(), timers: {}, reactions: 0 };
  const instance: SagaInstance = {
    id,
    saga: manager.name,
    version: 1,
    status: "waiting",
    data,
    steps: [],
    correlationId: message.correlationId ?? message.id,
    dueAt: NEVER,
    startedAt: now,
    updatedAt: now,
  };
  const holder = { owner, leaseMs: LEASE_MS };
  const taken = await ports.sagas.take(id, owner, LEASE_MS);
  if (taken) return taken;
  if ((await ports.sagas.create([instance], holder))[0]) return { instance, owner, epoch: 1 };
  const again = await ports.sagas.take(id, owner, LEASE_MS); // another event has just made it
  if (again) return again;
  throw new MillstreamError("UNAVAILABLE", `Cannot react to "${message.type}": process "${id}" is at work`, {
    retryable: true,
  });
}

async function close(ports: StorePorts, claimed: ClaimedSaga, instance: SagaInstance): Promise<void> {
  const [saved] = await ports.sagas.save([{ claimed, instance, release: true }]);
  if (saved) return;
  throw new MillstreamError("LEASE_LOST", `Cannot save process "${instance.id}": another worker took over`);
}

interface Applied {
  readonly cause: string;
  readonly inherit: MessageOptions;
  readonly reaction: Reaction<unknown>;
}

/** The instance after a reaction, whose messages go to the outbox. */
async function apply(
  parts: SagaParts,
  ports: StorePorts,
  manager: ProcessManager,
  instance: SagaInstance,
  { cause, inherit, reaction }: Applied,
): Promise<SagaInstance> {
  const { clock } = parts;
  const now = clock.now();
  const before = dataOf(instance);
  const { send = [], publish = [], end = false, timers = {} } = reaction;
  const state = await validate(
    manager.schema,
    reaction.state ?? before.state,
    `state of process manager "${manager.name}"`,
  );
  const reactions = before.reactions + 1;
  const idOf = (nth: string): Promise<string> => uuidv5(`${instance.id}/${reactions}/${nth}`);
  const messages: OutboxMessage[] = await Promise.all([
    ...send.map(async ({ command, data }, n) =>
      await parts.factory.toSend(command, data, { ...inherit, id: await idOf(`command/${n}`) })
    ),
    ...publish.map(async ({ definition, data, options }, n) => ({
      ...(await parts.factory.event(definition, data, {
        ...inherit,
        id: await idOf(`event/${n}`),
        ...options,
      })),
      topic: definition.topic,
    })),
  ]);
  if (messages.length > 0) await ports.outbox.add(messages);
  const set: Record<string, number> = { ...before.timers };
  for (const [name, ms] of Object.entries(timers)) {
    if (ms === null) delete set[name];
    else set[name] = now + ms;
  }
  const data: ProcessData = { state, timers: end ? {} : set, reactions };
  const next: SagaInstance = {
    ...instance,
    data,
    status: end ? "completed" : "waiting",
    updatedAt: now,
  };
  observe(parts, next, cause, end ? "completed" : "done");
  const entry = { step: cause, action: "run", attempt: 1, startedAt: now, endedAt: now } as const;
  return withHistory({ ...next, dueAt: nextDue(next) }, entry);
}

function dueTimers(instance: SagaInstance, now: number): string[] {
  const { timers } = dataOf(instance);
  return Object.keys(timers).filter((name) => timers[name]! <= now).sort((a, b) => timers[a]! - timers[b]!);
}

function nextDue(instance: SagaInstance): number {
  return Math.min(NEVER, ...Object.values(dataOf(instance).timers));
}

function dataOf({ data }: SagaInstance): ProcessData {
  return data as ProcessData;
}
