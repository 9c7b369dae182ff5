/**
 * The connection: opened with the first use, kept by nats.js through losses, and opened anew if that gives up.
 *
 * @module
 */
import { type Clock, sleep, withDeadline } from "../../src/core/clock.ts";
import { MillstreamError } from "../../src/core/errors.ts";
import type { NatsConnection } from "./driver.ts";
import { type ApiError, apiFailure, failure } from "./failures.ts";

/** See the module. */
export interface Link {
  connection(): Promise<NatsConnection>;
  /** Calls the JetStream API. */
  api<T>(what: string, subject: string, request?: unknown): Promise<T>;
  /** Resolves when the server has read everything that was sent before. */
  flush(what: string): Promise<void>;
  close(): Promise<void>;
}

/** What {@linkcode link} needs. */
export interface LinkParts {
  readonly connect: () => Promise<NatsConnection>;
  /** Whether this side closes what `connect` gave. */
  readonly own: boolean;
  readonly clock: Clock;
  readonly timeoutMs: number;
  /** First part of the API's subjects. */
  readonly api: string;
}

/** Two attempts to connect are at least this far apart, in milliseconds. */
const PAUSE_MS = 200;

/** Makes a link. Does no I/O. */
export function link({ connect, own, clock, timeoutMs, api: prefix }: LinkParts): Link {
  let opening: Promise<NatsConnection> | undefined;
  let current: NatsConnection | undefined;
  let lastAttempt = -Infinity;
  let closed = false;

  async function connection(): Promise<NatsConnection> {
    if (closed) throw new MillstreamError("CLOSED", "Cannot connect: the broker was closed");
    if (current && !current.isClosed()) return current;
    opening ??= open().finally(() => opening = undefined);
    return await opening;
  }

  async function open(): Promise<NatsConnection> {
    const early = lastAttempt + PAUSE_MS - clock.monotonic();
    if (early > 0) await sleep(clock, early);
    lastAttempt = clock.monotonic();
    const connecting = connect();
    try {
      current = await withDeadline(clock, timeoutMs, connecting, () => late("connect to NATS"));
    } catch (error) {
      connecting.then((late) => own ? late.close() : undefined).catch(() => {});
      throw failure("connect to NATS", error);
    }
    if (closed && own) await current.close();
    return current;
  }

  function late(what: string): MillstreamError {
    return new MillstreamError("UNAVAILABLE", `Cannot ${what}: NATS gave no answer within ${timeoutMs} ms`);
  }

  return {
    connection,
    async api<T>(what: string, subject: string, request?: unknown): Promise<T> {
      const on = await connection();
      let answer: T & { readonly error?: ApiError };
      try {
        const body = request === undefined ? "" : JSON.stringify(request);
        const asking = on.request(`${prefix}.${subject}`, body, { timeout: timeoutMs });
        const { data } = await withDeadline(clock, timeoutMs, asking, () => late(what));
        answer = JSON.parse(new TextDecoder().decode(data));
      } catch (error) {
        throw failure(what, error);
      }
      if (answer.error) throw apiFailure(what, answer.error);
      return answer;
    },
    async flush(what) {
      const on = await connection();
      try {
        await withDeadline(clock, timeoutMs, on.flush(), () => late(what));
      } catch (error) {
        throw failure(what, error);
      }
    },
    async close() {
      closed = true;
      await opening?.catch(() => {});
      if (current && own) await current.close().catch(() => {});
    },
  };
}
