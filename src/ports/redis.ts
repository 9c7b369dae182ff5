/**
 * The Redis seam: the few calls the library makes on a Redis client, so that the client can be replaced.
 *
 * @module
 */
import type { Abortable } from "../core/clock.ts";

/** An argument of a command. Strings are sent as UTF-8. */
export type RedisArgument = string | number;

/** A reply: RESP2 shapes. Bulk strings as strings. */
export type RedisReply = string | number | null | readonly RedisReply[];

/** One connection. Commands are sent at once and in order, and never resent by the client. */
export interface RedisConnection extends AsyncDisposable {
  /**
   * Sends a command and settles within `timeoutMs`, also on a half-open connection, which is then torn down and
   * replaced.
   *
   * @throws `PUBLISH_INDETERMINATE` if the command was sent and its reply is lost: it may have been executed.
   * `UNAVAILABLE` if it was not sent, or the server said LOADING, READONLY, CLUSTERDOWN, MASTERDOWN, TRYAGAIN, BUSY;
   * `OVERLOADED` for OOM and MISCONF; `REJECTED` with `details.reply` for every other error reply.
   */
  call(command: string, args: readonly RedisArgument[], options: RedisCallOptions): Promise<RedisReply>;

  /** Runs a Lua script by its digest, sending the source where the server does not know it. Atomic on the server. */
  script(
    script: RedisScript,
    keys: readonly string[],
    args: readonly RedisArgument[],
    options: RedisCallOptions,
  ): Promise<RedisReply>;

  /** Called after each time the connection was replaced: state bound to the old one is gone. */
  onReconnect(listener: () => void): void;
}

/** Options of one call. */
export interface RedisCallOptions extends Abortable {
  /** Gives up a call that was not sent yet. Once it is sent its outcome is awaited, within the deadline. */
  readonly signal?: AbortSignal;
  /** The call's deadline. A blocking command's must exceed its BLOCK time. */
  readonly timeoutMs: number;
  /** Give it up with `UNAVAILABLE` if it could not be sent within this time, in milliseconds. @default timeoutMs */
  readonly sendWithinMs?: number;
  /** For commands that name no key: one on whose server it shall run, where there are several. */
  readonly key?: string;
}

/** A Lua script. */
export interface RedisScript {
  readonly name: string;
  readonly source: string;
}

/** Makes connections. */
export interface RedisDriver extends AsyncDisposable {
  /** A connection of its own: blocking reads must never share one (a shared one costs every other call its BLOCK time). */
  connect(purpose: string): RedisConnection;
}
