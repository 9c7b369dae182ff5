/**
 * Sending with publisher confirms: what resolves, the server has.
 *
 * When the channel is lost before everything is confirmed, what is left goes out again on the next one, with the same
 * ids and a mark, as long as the deadline allows. RabbitMQ does not recognise ids, so that can make a second copy;
 * consumers see it as `redelivered`, and the inbox makes its effect once.
 *
 * @module
 */
import type { Clock } from "../../src/core/clock.ts";
import { MillstreamError, toError } from "../../src/core/errors.ts";
import type { AmqpChannel, AmqpMessage, AmqpProperties } from "./driver.ts";
import { failure, indeterminate, tooLarge } from "./failures.ts";
import type { Line, Link } from "./link.ts";

/** A message on its way. */
export interface Outgoing {
  /** "" for a queue itself. */
  readonly exchange: string;
  /** Routing key. */
  readonly key: string;
  readonly body: Uint8Array;
  readonly properties: AmqpProperties;
}

/** How a list of messages is sent. */
export interface SendOptions {
  /** What it is for errors: the topic. */
  readonly name: string;
  /** Declares what the messages need, once for each channel and `name`. */
  readonly declare?: { readonly once: string; readonly run: (channel: AmqpChannel) => Promise<void> };
  /** Whether a message that no queue takes counts as failed, not as sent to nobody. */
  readonly mustArrive: boolean;
}

/** Sends messages over one channel that comes back. */
export interface Sender {
  /**
   * Resolves when the server has confirmed all of them.
   *
   * @throws `PUBLISH_INDETERMINATE` if some may have been accepted, anything else if none was.
   */
  send(messages: readonly Outgoing[], options: SendOptions): Promise<void>;
  /** Runs after all that is under way has settled. */
  drained(): Promise<void>;
}

/** What {@linkcode sender} needs. */
export interface SenderParts {
  readonly link: Link;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

const TAG = "millstream-returned";
const LOST = "the connection was lost";

/** A sender. Does no I/O before the first message. */
export function sender({ link, clock, timeoutMs }: SenderParts): Sender {
  let current: Wire | undefined;
  let opening: Promise<Wire> | undefined;
  const underway = new Set<Promise<unknown>>();
  let maxBytes = Infinity;
  let tags = 0;

  /** The channel in use, or a new one. */
  async function wire(): Promise<Wire> {
    if (current?.line.closed === false) return current;
    opening ??= open().finally(() => opening = undefined);
    return await opening;
  }

  async function open(): Promise<Wire> {
    const line = await link.open("confirm");
    const made: Wire = { line, declared: new Map(), returned: new Set() };
    line.channel.on("return", (message: never) => {
      const tag = (message as AmqpMessage).properties.headers?.[TAG];
      if (typeof tag === "number") made.returned.add(tag);
    });
    current = made;
    return made;
  }

  async function ready(declare: SendOptions["declare"]): Promise<Wire> {
    const on = await wire();
    if (!declare) return on;
    let declaring = on.declared.get(declare.once);
    if (!declaring) {
      declaring = on.line.call(`declare "${declare.once}"`, declare.run(on.line.channel));
      on.declared.set(declare.once, declaring);
      declaring.catch(() => on.declared.delete(declare.once));
    }
    await declaring;
    return on;
  }

  async function send(messages: readonly Outgoing[], options: SendOptions): Promise<void> {
    const end = clock.monotonic() + timeoutMs;
    const { name } = options;
    for (const { body } of messages) if (body.length > maxBytes) throw oversized(name, body.length, maxBytes);
    if (link.blocked !== undefined) throw refused(name, link.blocked);
    let left = messages;
    let accepted = false;
    for (let round = 0; left.length > 0; round++) {
      let on: Wire;
      try {
        on = await ready(options.declare);
      } catch (error) {
        const cause = failure(`publish to "${name}"`, error);
        if (round === 0) throw cause;
        if (!cause.retryable || clock.monotonic() >= end) throw indeterminate(name, LOST, cause);
        continue;
      }
      const outcome = await transmit(on, left, options.mustArrive, round > 0, end - clock.monotonic());
      accepted ||= outcome.confirmed > 0;
      if (outcome.refused) throw indeterminate(name, "the server did not take them", outcome.refused);
      if (outcome.late) {
        // Slow, or gone without a word? A call that gets no answer ends the connection.
        void on.line.call("reach RabbitMQ", on.line.channel.prefetch(1)).catch(() => {});
        throw indeterminate(name, `no confirmation within ${timeoutMs} ms`);
      }
      if (outcome.unroutable) throw unroutable(name);
      if (outcome.invalid) {
        throw accepted
          ? indeterminate(name, "one is no message", outcome.invalid)
          : invalid(name, outcome.invalid);
      }
      left = outcome.lost;
      const reason = on.line.reason;
      const limit = reason && tooLarge(reason.message);
      if (limit !== undefined) maxBytes = limit;
      const culprit = left.find(({ body }) => body.length > maxBytes);
      if (culprit && (accepted || left.length > 1)) {
        throw indeterminate(name, "one of them is larger than the server's limit", reason);
      }
      if (culprit) throw oversized(name, culprit.body.length, maxBytes);
      if (left.length > 0 && reason && blames(reason, left)) throw failure(`publish to "${name}"`, reason);
      if (left.length > 0 && clock.monotonic() >= end) {
        throw indeterminate(name, LOST, reason);
      }
    }
  }

  /** Writes them all and waits for the confirmations. Never rejects. */
  function transmit(
    { line, returned }: Wire,
    messages: readonly Outgoing[],
    mandatory: boolean,
    again: boolean,
    ms: number,
  ): Promise<Outcome> {
    return new Promise((resolve) => {
      let open = messages.length;
      let confirmed = 0;
      const lost: Outgoing[] = [];
      let refused: Error | undefined;
      let invalid: Error | undefined;
      let isUnroutable = false;
      let done = false;
      const cancel = clock.after(Math.max(1, ms), () => finish(true));

      function finish(late: boolean): void {
        if (done) return;
        done = true;
        cancel();
        resolve({ confirmed, lost, refused, invalid, late, unroutable: isUnroutable });
      }

      for (const message of messages) {
        const tag = mandatory ? ++tags : 0;
        const settle = (error: Error | null | undefined): void => {
          if (mandatory && returned.delete(tag)) isUnroutable = true;
          else if (!error) confirmed++;
          else if (error.message === "message nacked") refused = error;
          else if (error === invalid) return void (--open === 0 && finish(false));
          else lost.push(message);
          if (--open === 0) finish(false);
        };
        try {
          const { exchange, key, body, properties } = message;
          line.channel.publish(exchange, key, body, marked(properties, tag, again, mandatory), settle);
        } catch (error) {
          if (!line.closed) invalid = toError(error);
          settle(toError(error));
        }
      }
    });
  }

  return {
    send(messages, options) {
      const sending = send(messages, options);
      underway.add(sending);
      sending.catch(() => {}).finally(() => underway.delete(sending));
      return sending;
    },
    async drained() {
      await Promise.allSettled(underway);
    },
  };
}

/** A channel, and what was declared and returned on it. */
interface Wire {
  readonly line: Line;
  readonly declared: Map<string, Promise<void>>;
  readonly returned: Set<number>;
}

/** What became of messages that were written. */
interface Outcome {
  readonly confirmed: number;
  /** The channel was lost before an answer. */
  readonly lost: readonly Outgoing[];
  readonly refused: Error | undefined;
  /** What the driver could not write. */
  readonly invalid: Error | undefined;
  readonly late: boolean;
  readonly unroutable: boolean;
}

function marked(properties: AmqpProperties, tag: number, again: boolean, mandatory: boolean): AmqpProperties {
  if (!again && !mandatory) return properties;
  const headers: Record<string, unknown> = { ...properties.headers };
  if (again) headers["millstream-suspect"] = true;
  if (mandatory) headers[TAG] = tag;
  return { ...properties, headers, mandatory };
}

/** Whether the server closed the channel because of these messages, and not of somebody else's. */
function blames({ message }: Error, messages: readonly Outgoing[]): boolean {
  return /ACCESS.REFUSED/.test(message) && messages.some(({ exchange }) => message.includes(`'${exchange}'`));
}

function oversized(name: string, bytes: number, maxBytes: number): MillstreamError {
  return new MillstreamError(
    "PAYLOAD_TOO_LARGE",
    `Cannot publish to "${name}": ${bytes} bytes, the server's limit is ${maxBytes}`,
    { details: { bytes, maxBytes } },
  );
}

function refused(name: string, why: string): MillstreamError {
  return new MillstreamError(
    "OVERLOADED",
    `Cannot publish to "${name}": the server takes nothing for now (${why})`,
  );
}

function invalid(name: string, cause: Error): MillstreamError {
  return new MillstreamError("REJECTED", `Cannot publish to "${name}": ${cause.message}`, { cause });
}

function unroutable(name: string): MillstreamError {
  return new MillstreamError("NOT_FOUND", `Cannot publish to "${name}": no queue takes it`, {
    retryable: true,
  });
}
