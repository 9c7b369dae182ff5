/**
 * Takes messages off a queue for those who wait for them.
 *
 * RabbitMQ pushes; the port pulls. So a consumer with a prefetch as large as the largest pull stands on the queue while
 * somebody pulls, which is always in a running application. When nobody has pulled for a moment, it leaves the queue
 * to others, and what it had received and nobody took goes back.
 *
 * @module
 */
import { aborted, type Clock } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { PullOptions } from "../../src/ports/broker.ts";
import type { AmqpMessage } from "./driver.ts";
import type { Line } from "./link.ts";

/** A message that was received, and where from: it can be settled there only. */
export interface Received {
  readonly raw: AmqpMessage;
  readonly line: Line;
  readonly consumer: Consumer;
}

/** One registration on the queue. */
interface Consumer {
  readonly line: Line;
  readonly prefetch: number;
  tag: string;
  /** Received and not settled. */
  outstanding: number;
  over: boolean;
}

/** See the module. */
export interface Intake {
  /** Waits for messages, up to `max`. */
  take(max: number, options: PullOptions): Promise<readonly Received[]>;
  /** Makes room for another one. Called before it is acknowledged or put back. */
  settled(received: Received): void;
  /** Whether all up to this one on its channel is settled, so that one acknowledgement stands for all. */
  coversAll(received: Received): boolean;
  /** Received, and not taken by anybody yet. */
  readonly buffered: number;
  /** The channel in use. */
  readonly line: Line | undefined;
  /** Leaves the queue; what waits for messages is told. What was received and not taken is returned. */
  close(): Promise<readonly Received[]>;
}

/** What {@linkcode intake} needs. */
export interface IntakeParts {
  readonly queue: string;
  readonly clock: Clock;
  /** At least so many are fetched ahead. */
  readonly prefetch: number;
  /** A channel on which the queue was declared. */
  readonly open: () => Promise<Line>;
  /** Puts back what nobody took. Never rejects. */
  readonly giveBack: (received: readonly Received[]) => Promise<void>;
  /** The queue was deleted, or its node went away. */
  readonly vanished: () => void;
}

/** After so long without a pull the queue is left to others, in milliseconds. */
const LINGER_MS = 100;
/** How long a pull waits for a settlement to make room, before it asks for more than it can settle. */
const ROOM_MS = 25;

/** An intake. Does no I/O before the first pull. */
export function intake(parts: IntakeParts): Intake {
  const { queue, clock } = parts;
  const buffer: Received[] = [];
  const sleepers = new Set<() => void>();
  /** Delivery tags on the channel in use that are not settled, in their order. */
  const tags = new Set<number>();
  let consumer: Consumer | undefined;
  let line: Line | undefined;
  let waiting = 0;
  let closed = false;
  let changing: Promise<void> = Promise.resolve();
  let cancelIdle = (): void => {};

  function wake(): void {
    for (const sleeper of [...sleepers]) sleeper();
  }

  /** Registrations change one after the other. */
  function change(work: () => Promise<void>): Promise<void> {
    const changed = changing.then(work);
    changing = changed.catch(() => {});
    return changed;
  }

  async function stand(max: number): Promise<void> {
    if (closed || buffer.length > 0) return;
    const usable = consumer?.over === false && !consumer.line.closed ? consumer : undefined;
    if (usable && usable.prefetch >= max && usable.outstanding < usable.prefetch) return;
    if (!line || line.closed) {
      line = await parts.open();
      tags.clear();
      line.onClose(() => {
        for (let at = buffer.length - 1; at >= 0; at--) if (buffer[at]!.line.closed) buffer.splice(at, 1);
        wake();
      });
    }
    await leave();
    const prefetch = Math.max(max, parts.prefetch, consumer?.prefetch ?? 1);
    const next: Consumer = { line, prefetch, tag: "", outstanding: 0, over: false };
    consumer = next;
    const { channel } = line;
    await line.call("set the prefetch", channel.prefetch(prefetch));
    const { consumerTag } = await line.call(
      `consume "${queue}"`,
      channel.consume(queue, (raw) => receive(next, raw)),
    );
    next.tag = consumerTag;
  }

  function receive(from: Consumer, raw: AmqpMessage | null): void {
    if (raw === null) {
      from.over = true;
      parts.vanished();
      // The next registration declares the queue again.
      void from.line.close();
      return;
    }
    from.outstanding++;
    if (from.line === line) tags.add(raw.fields.deliveryTag ?? 0);
    buffer.push({ raw, line: from.line, consumer: from });
    wake();
    idleSoon();
  }

  async function leave(): Promise<void> {
    if (!consumer || consumer.over || consumer.line.closed || consumer.tag === "") return;
    consumer.over = true;
    await consumer.line.call("cancel a consumer", consumer.line.channel.cancel(consumer.tag)).catch(() => {});
  }

  function idleSoon(): void {
    cancelIdle();
    if (waiting > 0 || closed || !consumer || consumer.over) return;
    if (buffer.length === 0 && consumer.outstanding >= consumer.prefetch) return; // nothing can come
    cancelIdle = clock.after(LINGER_MS, () =>
      void change(async () => {
        if (waiting > 0 || closed) return;
        await leave();
        await parts.giveBack(buffer.splice(0));
      }));
  }

  /** Waits for a message, a change of the connection, or the end. */
  function nap(ms: number, signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const cancel = clock.after(ms, end);
      function end(): void {
        cancel();
        sleepers.delete(end);
        signal?.removeEventListener("abort", end);
        resolve();
      }
      sleepers.add(end);
      signal?.addEventListener("abort", end, { once: true });
      if (signal?.aborted) end();
    });
  }

  async function take(max: number, { waitMs, signal }: PullOptions): Promise<readonly Received[]> {
    const start = clock.monotonic();
    waiting++;
    cancelIdle();
    try {
      for (;;) {
        if (closed) throw gone(queue);
        if (buffer.length > 0) return buffer.splice(0, max);
        if (signal?.aborted) throw aborted(signal);
        const full = consumer?.over === false && consumer.outstanding >= consumer.prefetch;
        const waited = clock.monotonic() - start;
        if (!full || waited >= Math.min(ROOM_MS, waitMs)) {
          await change(() => stand(max));
          if (buffer.length > 0 || closed || signal?.aborted) continue;
        }
        // Without time to wait, what is on its way from the server still counts.
        const left = Math.max(waitMs, LINGER_MS / 2) - (clock.monotonic() - start);
        if (left <= 0) return [];
        await nap(full ? Math.min(left, ROOM_MS) : left, signal);
      }
    } finally {
      waiting--;
      idleSoon();
    }
  }

  return {
    take,
    settled({ consumer: from, raw }) {
      from.outstanding--;
      if (from.line === line) tags.delete(raw.fields.deliveryTag ?? 0);
      idleSoon();
    },
    coversAll({ line: of, raw }) {
      if (of !== line) return false;
      for (const tag of tags) return tag > (raw.fields.deliveryTag ?? 0);
      return true;
    },
    get buffered() {
      return buffer.length;
    },
    get line() {
      return line;
    },
    async close() {
      closed = true;
      cancelIdle();
      wake();
      await change(leave);
      return buffer.splice(0);
    },
  };
}

function gone(queue: string): MillstreamError {
  return new MillstreamError("CLOSED", `Cannot pull from "${queue}": the subscription was closed`);
}
