/**
 * A connection that comes back: opened with the first use, and again with the first use after it was lost.
 *
 * @module
 */
import { type Clock, sleep, withDeadline } from "../../src/core/clock.ts";
import { MillstreamError, toError } from "../../src/core/errors.ts";
import type { AmqpChannel, AmqpConnection } from "./driver.ts";
import { failure } from "./failures.ts";

/** A connection that comes back. */
export interface Link {
  /** A new channel, on a new connection if the last one was lost. */
  open(kind: "plain" | "confirm"): Promise<Line>;
  /** Why the server takes no messages for now: it is short of memory or disk. */
  readonly blocked: string | undefined;
  close(): Promise<void>;
}

/** A channel, and whether it is still there. */
export interface Line {
  readonly channel: AmqpChannel;
  readonly closed: boolean;
  /** What the server closed it for, if it was this channel's fault. */
  readonly reason: Error | undefined;
  /** Told once when it is lost or closed, at once if it is. */
  onClose(listener: () => void): void;
  /** Waits for a reply of the server. One that does not come in time ends the whole connection: it is no good. */
  call<T>(what: string, work: Promise<T>): Promise<T>;
  /** Closes it. What it held and did not settle goes back to the queues. Never rejects. */
  close(): Promise<void>;
}

/** How {@linkcode link} connects. */
export interface LinkOptions {
  readonly connect: () => Promise<AmqpConnection>;
  /** Whether this side closes what `connect` gave. */
  readonly own: boolean;
  readonly timeoutMs: number;
  readonly clock: Clock;
}

/** Two attempts to connect are at least this far apart, in milliseconds. */
const PAUSE_MS = 200;

/** Makes a link. Does no I/O. */
export function link({ connect, own, timeoutMs, clock }: LinkOptions): Link {
  let session: Promise<Session> | undefined;
  let lastAttempt = -Infinity;
  let current: Session | undefined;
  let closed = false;

  function connected(): Promise<Session> {
    if (closed) return Promise.reject(new MillstreamError("CLOSED", "Cannot connect: the broker was closed"));
    if (!session || current?.ended) {
      current = undefined;
      const attempt = start();
      session = attempt;
      attempt.catch(() => {
        if (session === attempt) session = undefined;
      });
    }
    return session;
  }

  async function start(): Promise<Session> {
    const early = lastAttempt + PAUSE_MS - clock.monotonic();
    if (early > 0) await sleep(clock, early);
    lastAttempt = clock.monotonic();
    const connecting = connect();
    try {
      const connection = await withDeadline(clock, timeoutMs, connecting, () => late("connect"));
      current = follow(connection);
      if (closed) current.end();
      return current;
    } catch (error) {
      // One that comes late is of no use to anybody.
      connecting.then((connection) => own ? connection.close() : undefined).catch(() => {});
      throw failure("connect to RabbitMQ", error);
    }
  }

  function follow(connection: AmqpConnection): Session {
    const made: Session = {
      connection,
      ended: false,
      blocked: undefined,
      end() {
        made.ended = true;
        if (!own) return;
        // A link that answers nothing is not asked to say goodbye.
        (connection as DriverInternals).connection?.stream?.destroy?.(new Error("no answer"));
      },
    };
    connection.on("error", () => made.ended = true);
    connection.on("close", () => made.ended = true);
    connection.on("blocked", (reason: never) => made.blocked = String(reason || "an alarm"));
    connection.on("unblocked", () => made.blocked = undefined);
    return made;
  }

  function late(what: string): MillstreamError {
    return new MillstreamError(
      "UNAVAILABLE",
      `Cannot ${what}: RabbitMQ gave no answer within ${timeoutMs} ms`,
    );
  }

  async function open(kind: "plain" | "confirm"): Promise<Line> {
    const on = await connected();
    const { connection } = on;
    try {
      const opening = kind === "plain" ? connection.createChannel() : connection.createConfirmChannel();
      opening.catch(() => {});
      const channel = await withDeadline(clock, timeoutMs, opening, () => {
        on.end();
        return late("open a channel");
      });
      return line(channel, on);
    } catch (error) {
      throw failure("open a channel", error);
    }
  }

  function line(channel: AmqpChannel, on: Session): Line {
    let over = false;
    let reason: Error | undefined;
    const listeners: Array<() => void> = [];
    channel.on("error", (error: never) => reason = toError(error));
    channel.on("close", end);

    function end(): void {
      if (over) return;
      over = true;
      for (const listener of listeners.splice(0)) listener();
    }

    async function call<T>(what: string, work: Promise<T>): Promise<T> {
      try {
        return await withDeadline(clock, timeoutMs, work, () => {
          on.end();
          end();
          return late(what);
        });
      } catch (error) {
        throw failure(what, reason ?? error);
      }
    }

    return {
      channel,
      get closed() {
        return over;
      },
      get reason() {
        return reason;
      },
      onClose(listener) {
        if (over) listener();
        else listeners.push(listener);
      },
      call,
      async close() {
        if (over) return;
        // Closing a channel that closes at the same moment throws at once.
        await call("close a channel", (async () => await channel.close())()).catch(() => {});
        end();
      },
    };
  }

  return {
    open,
    get blocked() {
      return current?.ended === false ? current.blocked : undefined;
    },
    async close() {
      closed = true;
      const last = await session?.catch(() => undefined);
      if (!last || last.ended || !own) return;
      await withDeadline(clock, timeoutMs, (async () => await last.connection.close())(), () => late("close"))
        .catch(() => {});
      last.end();
    },
  };
}

/** The socket of an amqplib connection: only destroying it ends a link that answers nothing. */
interface DriverInternals {
  readonly connection?: { readonly stream?: { destroy?(reason: Error): void } };
}

/** One connection while it lasts. */
interface Session {
  readonly connection: AmqpConnection;
  ended: boolean;
  blocked: string | undefined;
  /** Ends it without a word. */
  end(): void;
}
