/**
 * Reading a queue without taking from it: for dead letters, and for the list of groups.
 *
 * AMQP has no such call. So the messages are received, looked at, and those to stay are put back. Meanwhile nobody else
 * would see them; a lock, which is a queue that belongs to one connection, makes everybody take turns. It ends with its
 * connection, so nobody has to clear up after a crash. A look costs the transfer of the messages it passes.
 *
 * @module
 */
import { type Clock, sleep } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { AmqpMessage } from "./driver.ts";
import type { Line, Link } from "./link.ts";

/** What becomes of a message that was looked at: it stays, it is dropped, or it stays or is dropped as the last one. */
export type Verdict = "keep" | "drop" | "stop" | "drop and stop";

/** Says what becomes of a message. */
export type Look = (message: AmqpMessage) => Verdict | Promise<Verdict>;

/**
 * Looks through the messages of a queue, oldest first.
 *
 * @param options `stops`: most looks end early, so few are fetched first. What was kept may then be seen twice.
 */
export type Browse = (queue: string, look: Look, options?: { readonly stops?: boolean }) => Promise<void>;

/** What {@linkcode browser} needs. */
export interface BrowserParts {
  readonly link: Link;
  readonly clock: Clock;
  readonly timeoutMs: number;
}

/** So many messages are fetched first by a look that may stop early. */
const FIRST_WINDOW = 64;
/** So many messages are reached at most: a prefetch has 16 bits. */
const REACH = 65_535;

/** Makes a {@linkcode Browse}. A queue that does not exist is empty. */
export function browser({ link, clock, timeoutMs }: BrowserParts): Browse {
  const turns = new Map<string, Promise<unknown>>();

  /** One after the other within this connection, to which the lock would belong all the time. */
  function inTurn<T>(queue: string, work: () => Promise<T>): Promise<T> {
    const before = turns.get(queue) ?? Promise.resolve();
    const turn = before.then(work, work);
    turns.set(queue, turn);
    turn.catch(() => {}).finally(() => turns.get(queue) === turn && turns.delete(queue));
    return turn;
  }

  async function lock(queue: string): Promise<Line> {
    const end = clock.monotonic() + timeoutMs;
    for (;;) {
      const line = await link.open("plain");
      try {
        await line.call(
          "lock",
          line.channel.assertQueue(`${queue}:lock`, { exclusive: true, autoDelete: false }),
        );
        return line;
      } catch (error) {
        await line.close();
        const locked = /RESOURCE.LOCKED/.test(String(line.reason?.message));
        if (!locked) throw error;
        if (clock.monotonic() > end) throw busy(queue, timeoutMs);
      }
      await sleep(clock, 10 + Math.random() * 30);
    }
  }

  async function count(queue: string): Promise<number> {
    const line = await link.open("plain");
    try {
      return (await line.call(`look at "${queue}"`, line.channel.checkQueue(queue))).messageCount;
    } catch (error) {
      if ((error as MillstreamError).code === "NOT_FOUND") return 0;
      throw error;
    } finally {
      await line.close();
    }
  }

  async function lookThrough(
    queue: string,
    total: number,
    window: number,
    look: Look,
  ): Promise<boolean> {
    const line = await link.open("plain");
    const { channel } = line;
    try {
      const messages = await receive(line, queue, window);
      const kept: AmqpMessage[] = [];
      let stopped = false;
      for (const message of messages) {
        const verdict: Verdict = stopped ? "keep" : await look(message);
        if (verdict.startsWith("drop")) channel.ack(message);
        else kept.push(message);
        stopped ||= verdict.endsWith("stop");
      }
      const last = kept.at(-1);
      if (last) channel.nack(last, true, true);
      await settled(line, queue, total - (messages.length - kept.length));
      return stopped;
    } finally {
      await line.close();
    }
  }

  /** As many messages as asked for, or fewer if that is all there are. */
  async function receive(line: Line, queue: string, wanted: number): Promise<readonly AmqpMessage[]> {
    const messages: AmqpMessage[] = [];
    let more = (): void => {};
    const { channel } = line;
    await line.call("set the prefetch", channel.prefetch(wanted));
    const consuming = channel.consume(queue, (message) => {
      if (message) messages.push(message);
      more();
    });
    const { consumerTag } = await line.call(`read "${queue}"`, consuming);
    while (messages.length < wanted && !line.closed) {
      const before = messages.length;
      await new Promise<void>((resolve) => {
        const cancel = clock.after(timeoutMs, resolve);
        more = () => {
          cancel();
          resolve();
        };
        line.onClose(more);
      });
      if (messages.length === before) break;
    }
    await line.call("cancel a consumer", channel.cancel(consumerTag));
    return messages;
  }

  /** What was put back is seen by the next one only when the queue has noted it. */
  async function settled({ channel, call }: Line, queue: string, expected: number): Promise<void> {
    for (let look = 0; look < 50; look++) {
      const { messageCount } = await call(`look at "${queue}"`, channel.checkQueue(queue));
      if (messageCount >= expected) return;
      await sleep(clock, 10);
    }
  }

  return (queue, look, { stops = false } = {}) =>
    inTurn(queue, async () => {
      if (await count(queue) === 0) return;
      const holder = await lock(queue);
      try {
        let total = await count(queue);
        if (stops && total > FIRST_WINDOW) {
          if (await lookThrough(queue, total, FIRST_WINDOW, look)) return;
          total = await count(queue);
        }
        if (total > 0) await lookThrough(queue, total, Math.min(total, REACH), look);
      } finally {
        await holder.call("unlock", holder.channel.deleteQueue(`${queue}:lock`)).catch(() => {});
        await holder.close();
      }
    });
}

function busy(queue: string, timeoutMs: number): MillstreamError {
  return new MillstreamError(
    "UNAVAILABLE",
    `Cannot look at "${queue}": others have been looking at it for ${timeoutMs} ms`,
  );
}
