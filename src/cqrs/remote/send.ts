/**
 * Sending commands over a broker, and waiting for what becomes of them.
 *
 * @module
 */
import { type Abortable, aborted, type Clock } from "../../core/clock.ts";
import { decodeMessage, encodeMessage, type MessageLimits } from "../../core/codec.ts";
import { commandTopic } from "../../core/definition.ts";
import { MillstreamError } from "../../core/errors.ts";
import type { IdGenerator } from "../../core/ids.ts";
import type { Message } from "../../core/message.ts";
import type { Observer } from "../../core/observer.ts";
import type { DispatchResult } from "../../messaging/context.ts";
import { type Loop, startLoop } from "../../messaging/loop.ts";
import type { Broker, PublishOptions, TopicLog } from "../../ports/broker.ts";
import { REPLIES, type ReplyData } from "./wire.ts";

/** What sending needs. */
export interface SendParts {
  readonly broker: Broker;
  readonly clock: Clock;
  readonly observer: Observer;
  readonly limits: MessageLimits;
  readonly newId: IdGenerator;
  /** Takes the loop that reads replies, to stop it when the application closes. */
  readonly own: (loop: Loop) => void;
}

/** Sends a command and does not wait for its outcome. Resolves when the broker has it. */
export async function sendCommand(
  { broker, limits }: SendParts,
  command: Message,
  options: PublishOptions,
): Promise<void> {
  await broker.publish(commandTopic(command.type), [encodeMessage(command, limits)], options);
}

/** Sends commands and waits for replies. */
export interface Requester {
  request(command: Message, options: Abortable & { readonly waitMs: number }): Promise<DispatchResult>;
}

const READ_WAIT_MS = 2_000;

/**
 * Creates a {@linkcode Requester}. With its first request it begins to read the topic of replies, and reads on until
 * the application closes.
 */
export function requester(parts: SendParts): Requester {
  const { broker, clock, observer, limits, newId, own } = parts;
  const waiting = new Map<string, (reply: ReplyData) => void>();
  let reading: Promise<void> | undefined;

  /** Resolves when no reply can be missed any more. */
  async function read(log: TopicLog): Promise<void> {
    let { next } = await log.read(REPLIES, "now", { limit: 1, waitMs: 0 });
    const loop = { name: "replies", clock, observer, periodMs: READ_WAIT_MS * 2 };
    own(startLoop(loop, async (signal) => {
      const page = await log.read(REPLIES, next, { limit: 500, waitMs: READ_WAIT_MS, signal });
      next = page.next;
      for (const { body } of page.entries) {
        const { data } = decodeMessage(body, limits) as Message<ReplyData>;
        waiting.get(data.request)?.(data);
      }
      return 0;
    }));
  }

  return {
    async request(command, { waitMs, signal }) {
      if (!broker.log) throw noLog(broker.features.name);
      if (signal?.aborted) throw aborted(signal);
      await (reading ??= read(broker.log).catch((failure) => {
        reading = undefined;
        throw failure;
      }));
      const id = newId();
      const headers = { ...command.headers, commandid: command.id, replyto: REPLIES };
      const message = encodeMessage({ ...command, id, headers }, limits);
      const reply = replyTo(id, command, waitMs, signal);
      try {
        await broker.publish(commandTopic(command.type), [message], signal ? { signal } : {});
        return await reply.arrived;
      } finally {
        reply.forget();
      }
    },
  };

  function replyTo(id: string, command: Message, waitMs: number, signal: AbortSignal | undefined): {
    readonly arrived: Promise<DispatchResult>;
    readonly forget: () => void;
  } {
    let forget = (): void => {};
    const arrived = new Promise<DispatchResult>((resolve, reject) => {
      const onAbort = (): void => reject(aborted(signal));
      const cancel = clock.after(waitMs, () => reject(tooLate(command, waitMs)));
      signal?.addEventListener("abort", onAbort, { once: true });
      waiting.set(id, ({ outcome, error }) => outcome ? resolve(outcome) : reject(revived(error)));
      forget = () => {
        waiting.delete(id);
        cancel();
        signal?.removeEventListener("abort", onAbort);
      };
    });
    arrived.catch(() => {}); // seen where it is awaited, if the command could be sent at all
    return { arrived, forget };
  }
}

function revived(error: ReplyData["error"]): MillstreamError {
  if (!error) return new MillstreamError("MALFORMED_MESSAGE", "Cannot read the reply: it has no outcome");
  return new MillstreamError(error.code, error.message, { details: error.details });
}

function tooLate({ type, id }: Message, waitMs: number): MillstreamError {
  return new MillstreamError(
    "DEADLINE_EXCEEDED",
    `Cannot wait longer for command "${type}": no reply within ${waitMs} ms. It may still run: ask again with the same id`,
    { details: { id, waitMs } },
  );
}

function noLog(name: string): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    `Cannot wait for a reply over broker "${name}": it keeps no log to read replies from. Use send`,
  );
}
