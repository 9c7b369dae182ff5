/**
 * What a step does besides its own work: it is collected while the step runs, and committed when the step is saved.
 *
 * @module
 */
import type { NewEvent } from "../core/definition.ts";
import { uuidv5 } from "../core/ids.ts";
import type { MessageOptions } from "../core/message.ts";
import type { OutboxMessage } from "../ports/outbox.ts";
import type { SagaInstance } from "../ports/saga_store.ts";
import type { Move } from "./advance.ts";
import type { StepContext } from "./definition.ts";
import type { SagaParts } from "./parts.ts";
import { NO_EFFECTS, type SaveEffects } from "./saver.ts";

/** What a step has asked for so far. */
export interface Staged {
  /** Whether a command went through: the step has taken effect, whatever it ends with. */
  acted: boolean;
  readonly messages: Array<Promise<OutboxMessage>>;
  readonly appends: Array<{ readonly stream: string; readonly events: readonly NewEvent[] }>;
}

/** Nothing yet. */
export function stage(): Staged {
  return { acted: false, messages: [], appends: [] };
}

/** The context of one try of a step. */
export function stepContext(
  { factory, dispatch }: SagaParts,
  instance: SagaInstance,
  move: Move,
  staged: Staged,
  signal: AbortSignal,
): StepContext {
  const idempotencyKey = `${instance.id}/${move.step.name}${move.kind === "undo" ? "/undo" : ""}`;
  const inherit: MessageOptions = { correlationId: instance.correlationId, causationId: instance.id };
  let created = 0;
  const nextId = (): Promise<string> => uuidv5(`${instance.saga}/${idempotencyKey}/${created++}`);
  const stage = (make: (id: string) => Promise<OutboxMessage>): void => {
    const message = nextId().then(make);
    message.catch(() => {}); // reported when the step is committed
    staged.messages.push(message);
  };
  return {
    sagaId: instance.id,
    idempotencyKey,
    attempt: move.attempt,
    signal,
    publish: (definition, data, options = {}) =>
      stage(async (id) => ({
        ...(await factory.event(definition, data, { ...inherit, id, ...options })),
        topic: definition.topic,
      })),
    append: (stream, events) => void staged.appends.push({ stream, events }),
    send: (command, data) => stage((id) => factory.toSend(command, data, { ...inherit, id })),
    async dispatch(command, data) {
      const message = await factory.command(command, data, { ...inherit, id: await nextId() });
      signal.throwIfAborted(); // a try that was given up sends nothing more
      const result = await dispatch(message);
      staged.acted = true;
      return result as never;
    },
  };
}

/** Validates and encodes what a step wants to send, under ids that are the same at every try. */
export async function prepare(
  { factory }: SagaParts,
  { saga, id, correlationId }: SagaInstance,
  { kind, step }: Move,
  staged: Staged,
): Promise<SaveEffects> {
  if (staged.messages.length === 0 && staged.appends.length === 0) return NO_EFFECTS;
  const appends = await Promise.all(staged.appends.map(async ({ stream, events }, at) => ({
    stream,
    expected: "any" as const,
    events: await Promise.all(events.map(async (event, index) => {
      const eventId = await uuidv5(`${saga}/${id}/${kind}/${step.name}/${at}/${index}`);
      const inherit = { correlationId, causationId: id, subject: stream };
      return await factory.toAppend(event, { ...inherit, ...event.options, id: eventId });
    })),
  })));
  return { ...NO_EFFECTS, messages: await Promise.all(staged.messages), appends };
}
