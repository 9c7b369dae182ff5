/**
 * Takes messages off a durable consumer for those who wait for them: one request for each pull that finds too little
 * on its way. A request ends with the time of the pull it was made for, so nothing is fetched for nobody; what crosses
 * that moment is for the next pull, or goes back.
 *
 * @module
 */
import { aborted, type Clock } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { PullOptions } from "../../src/ports/broker.ts";
import type { NatsConnection, NatsMessage, NatsSubscription } from "./driver.ts";

/** What {@linkcode intake} needs. */
export interface IntakeParts {
  readonly name: string;
  readonly clock: Clock;
  /** Subject that asks for messages. */
  readonly ask: string;
  readonly connection: () => Promise<NatsConnection>;
  /** Whether a message is for whoever pulls; what is not is settled there. */
  readonly accept: (message: NatsMessage) => boolean;
  readonly giveBack: (messages: readonly NatsMessage[]) => void;
  /** The consumer is gone: makes it again. */
  readonly rejoin: () => Promise<void>;
}

/** See the module. */
export interface Intake {
  take(max: number, options: PullOptions): Promise<readonly NatsMessage[]>;
  /** Stops asking. What came and was not taken is returned. */
  close(): Promise<readonly NatsMessage[]>;
}

/** A request for messages. */
interface Ask {
  left: number;
  readonly until: number;
}

/** What nobody took for so long goes back, in milliseconds. */
const LINGER_MS = 100;
/** Requests end within this, so that one that was lost is made again, in milliseconds. */
const ASK_MS = 5_000;

/** An intake. Does no I/O before the first pull. */
export function intake(parts: IntakeParts): Intake {
  const { clock, name } = parts;
  const inbox = `_INBOX.${crypto.randomUUID().replaceAll("-", "")}`;
  const asks = new Map<string, Ask>();
  const buffer: NatsMessage[] = [];
  const sleepers = new Set<() => void>();
  let on: NatsConnection | undefined;
  let inlet: NatsSubscription | undefined;
  let count = 0;
  let waiting = 0;
  let closed = false;
  let gone = false;
  let rejoining: Promise<void> | undefined;
  let cancelIdle = (): void => {};

  function wake(): void {
    for (const sleeper of [...sleepers]) sleeper();
  }

  function receive(error: Error | null, message: NatsMessage): void {
    if (error || !message) return wake();
    if (!isDelivery(message)) {
      const { code = 0, description = "" } = message.headers ?? {};
      if (code === 100) return;
      // The request has ended: nothing to have, out of time, or out of place.
      asks.delete(message.subject.slice(inbox.length + 1));
      if (code === 503 || (code === 409 && /deleted/i.test(description))) gone = true;
      return wake();
    }
    // A message has the subject it was published to, and answers the oldest request that is open.
    for (const [id, ask] of asks) {
      if (--ask.left === 0) asks.delete(id);
      break;
    }
    if (parts.accept(message)) buffer.push(message);
    wake();
    idleSoon();
  }

  function idleSoon(): void {
    cancelIdle();
    if (waiting > 0 || closed || buffer.length === 0) return;
    cancelIdle = clock.after(LINGER_MS, () => parts.giveBack(buffer.splice(0)));
  }

  /** How many messages may still come for what was asked. */
  function onTheirWay(): number {
    const now = clock.monotonic();
    let sum = 0;
    for (const [id, { left, until }] of asks) {
      if (left <= 0 || until < now) asks.delete(id);
      else sum += left;
    }
    return sum;
  }

  async function ask(max: number, ms: number): Promise<void> {
    if (gone) {
      rejoining ??= parts.rejoin().then(() => void (gone = false)).finally(() => rejoining = undefined);
      await rejoining;
    }
    const current = await parts.connection();
    if (closed) return;
    if (current !== on) {
      on = current;
      asks.clear();
      inlet = current.subscribe(`${inbox}.*`, { callback: receive });
    }
    const batch = max - onTheirWay();
    if (batch <= 0) return;
    const expires = Math.max(1, Math.min(ms, ASK_MS));
    const id = String(++count);
    asks.set(id, { left: batch, until: clock.monotonic() + expires });
    current.publish(parts.ask, JSON.stringify({ batch, expires: Math.ceil(expires) * 1_000_000 }), {
      reply: `${inbox}.${id}`,
    });
  }

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

  async function take(max: number, { waitMs, signal }: PullOptions): Promise<readonly NatsMessage[]> {
    // Without time to wait, what is on its way from the server still counts.
    const end = clock.monotonic() + Math.max(waitMs, LINGER_MS / 2);
    waiting++;
    cancelIdle();
    try {
      for (;;) {
        if (closed) {
          throw new MillstreamError("CLOSED", `Cannot pull from "${name}": the subscription was closed`);
        }
        if (buffer.length > 0) return buffer.splice(0, max);
        if (signal?.aborted) throw aborted(signal);
        const left = end - clock.monotonic();
        if (left <= 0) return [];
        await ask(max, left);
        if (buffer.length > 0 || closed || signal?.aborted) continue;
        await nap(Math.min(left, ASK_MS), signal);
      }
    } finally {
      waiting--;
      idleSoon();
    }
  }

  return {
    take,
    async close() {
      closed = true;
      cancelIdle();
      wake();
      if (inlet && on && !on.isClosed()) {
        inlet.unsubscribe();
        // What the server sent before it read that arrives before its answer. It has no taker, and waits for its time.
        await on.flush().catch(() => {});
      }
      return buffer.splice(0);
    },
  };
}

/** Whether a message came from a stream, and not from the server itself. */
function isDelivery({ reply }: NatsMessage): boolean {
  return reply?.startsWith("$JS.ACK.") === true;
}
