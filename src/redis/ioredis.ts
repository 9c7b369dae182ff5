/**
 * The Redis seam on ioredis 6. Everything that driver must not do by itself is switched off: it resends nothing, queues
 * nothing and times nothing out. Whether a command was sent is decided here, so that a lost reply is never taken for a
 * failure and never leads to a second execution.
 *
 * @module
 */
import { Command, Redis } from "ioredis";
import { backoffDelay, retryPolicy } from "../core/backoff.ts";
import { aborted, type Clock, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type {
  RedisArgument,
  RedisCallOptions,
  RedisConnection,
  RedisDriver,
  RedisReply,
  RedisScript,
} from "../ports/redis.ts";
import { lostReply, replyError } from "./replies.ts";

/** Options of {@linkcode ioredisDriver}. */
export interface IoredisOptions {
  /** `redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. */
  readonly url: string;
  /** How long connecting may take before it is tried again, in milliseconds. @default 2_500 */
  readonly connectTimeoutMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

/** Reconnecting: full jitter, so that many clients do not come back together; capped, so that recovery is quick. */
const RECONNECT = retryPolicy({ attempts: 1, baseMs: 50, factor: 2, maxMs: 1_000 });

/**
 * Connections by ioredis. Each connects with its first call, and again whenever it breaks, for as long as it lives.
 *
 * @throws `INVALID_ARGUMENT` if `url` is not a Redis URL.
 */
export function ioredisDriver(options: IoredisOptions): RedisDriver {
  const { url, connectTimeoutMs = 2_500, clock = systemClock } = options;
  checkUrl(url);
  const digests = new Map<RedisScript, string>();
  const open = new Set<RedisConnection>();

  function connect(purpose: string): RedisConnection {
    const connection = openConnection(newClient(url, purpose, connectTimeoutMs), {
      clock,
      connectTimeoutMs,
      digests,
    });
    open.add(connection);
    const dispose = async (): Promise<void> => {
      open.delete(connection);
      await connection[Symbol.asyncDispose]();
    };
    return { ...connection, [Symbol.asyncDispose]: dispose };
  }

  return {
    connect,
    async [Symbol.asyncDispose]() {
      await Promise.all([...open].map((connection) => connection[Symbol.asyncDispose]()));
      open.clear();
    },
  };
}

function newClient(url: string, purpose: string, connectTimeoutMs: number): Redis {
  const client = new Redis(url, {
    lazyConnect: true,
    connectionName: `millstream:${purpose}`.replace(/[^\w.:-]/g, "_"),
    disableClientInfo: true,
    // RESP2 replies have one shape on every server; nothing here needs RESP3.
    protocol: 2,
    replyMapping: "legacy",
    connectTimeout: connectTimeoutMs,
    keepAlive: 10_000,
    retryStrategy: (attempt) => backoffDelay(attempt, RECONNECT),
    // A primary that became a replica: the name now leads elsewhere.
    reconnectOnError: (error) => error.message.startsWith("READONLY"),
    // A server that is loading is asked often, not after ten seconds.
    maxLoadingRetryTime: 100,
    autoResendUnfulfilledCommands: false,
    // Together: whatever was sent when the connection broke is rejected at once, nothing waits inside the driver.
    maxRetriesPerRequest: 0,
    enableOfflineQueue: false,
    // `disconnect` destroys the socket instead of waiting for a peer that may be gone.
    disconnectTimeout: 0,
  });
  return client;
}

interface ConnectionContext {
  readonly clock: Clock;
  readonly connectTimeoutMs: number;
  readonly digests: Map<RedisScript, string>;
}

function openConnection(
  client: Redis,
  { clock, connectTimeoutMs, digests }: ConnectionContext,
): RedisConnection {
  const reconnectListeners: Array<() => void> = [];
  const waiting = new Set<() => void>();
  let connected = false;
  let disposed = false;
  let lastError: Error | undefined;
  let cancelHandshake = (): void => {};

  client.on("error", (error: Error) => {
    lastError = error;
  });
  client.on("connect", () => {
    // ioredis watches the TCP connect only: a peer that accepts and then says nothing would hold it for ever.
    cancelHandshake();
    cancelHandshake = clock.after(connectTimeoutMs, () => client.disconnect(true));
  });
  client.on("close", () => cancelHandshake());
  client.on("ready", () => {
    cancelHandshake();
    for (const wake of waiting) wake();
    if (connected) { for (const listener of reconnectListeners) listener(); }
    connected = true;
  });

  async function call(
    command: string,
    args: readonly RedisArgument[],
    { timeoutMs, sendWithinMs = timeoutMs, signal }: RedisCallOptions,
  ): Promise<RedisReply> {
    if (signal?.aborted) throw aborted(signal);
    if (disposed) throw closed(command);
    const deadline = clock.monotonic() + timeoutMs;
    const sendBy = clock.monotonic() + Math.min(sendWithinMs, timeoutMs);
    while (!isWritable(client)) {
      await ready(command, sendBy, signal);
      if (disposed) throw closed(command);
    }
    const leftMs = deadline - clock.monotonic();
    if (leftMs <= 0) throw notConnected(command, lastError);
    return exchange(command, args, leftMs);
  }

  /** Waits until the connection is made anew. */
  function ready(command: string, deadline: number, signal: AbortSignal | undefined): Promise<void> {
    // "end" is where a connect ends that was disturbed before it had a socket.
    if (client.status === "wait" || client.status === "end") client.connect().catch(() => {});
    return new Promise((resolve, reject) => {
      const finish = (settle: () => void): void => {
        cancel();
        waiting.delete(wake);
        signal?.removeEventListener("abort", onAbort);
        settle();
      };
      const wake = (): void => finish(disposed ? () => reject(closed(command)) : resolve);
      const onAbort = (): void => finish(() => reject(aborted(signal)));
      const late = (): void => finish(() => reject(notConnected(command, lastError)));
      const cancel = clock.after(Math.max(0, deadline - clock.monotonic()), late);
      waiting.add(wake);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  /** Sends a command. From here on its outcome is unknown until the server tells. */
  function exchange(command: string, args: readonly RedisArgument[], timeoutMs: number): Promise<RedisReply> {
    return new Promise((resolve, reject) => {
      const cancel = clock.after(timeoutMs, () => {
        // Half open, or as good as: nothing that was sent on it can be told apart any more.
        client.disconnect(true);
        reject(lostReply(command, `no reply within ${Math.round(timeoutMs)} ms`));
      });
      const request = new Command(command, [...args], { replyEncoding: "utf8" });
      const onReply = (reply: unknown): void => {
        cancel();
        resolve(reply as RedisReply);
      };
      const onError = (error: Error): void => {
        cancel();
        const refused = error.name === "ReplyError";
        reject(refused ? replyError(command, error) : lostReply(command, "the connection broke", error));
      };
      (client.sendCommand(request) as Promise<unknown>).then(onReply, onError);
    });
  }

  async function script(
    script: RedisScript,
    keys: readonly string[],
    args: readonly RedisArgument[],
    options: RedisCallOptions,
  ): Promise<RedisReply> {
    const deadline = clock.monotonic() + options.timeoutMs;
    const digest = digests.get(script) ?? await remember(digests, script);
    try {
      return await call("evalsha", [digest, keys.length, ...keys, ...args], options);
    } catch (error) {
      if (!isNoScript(error)) throw error;
      const timeoutMs = Math.max(1, deadline - clock.monotonic());
      return await call("eval", [script.source, keys.length, ...keys, ...args], { ...options, timeoutMs });
    }
  }

  async function dispose(): Promise<void> {
    if (disposed) return;
    disposed = true;
    for (const wake of waiting) wake();
    cancelHandshake();
    if (client.status === "wait" || client.status === "end") return;
    const live = client.status !== "reconnecting";
    const ended = new Promise<void>((resolve) => {
      const cancel = clock.after(500, resolve);
      client.once("end", () => {
        cancel();
        resolve();
      });
    });
    client.disconnect();
    if (live) await ended;
  }

  return {
    call,
    script,
    onReconnect: (listener) => void reconnectListeners.push(listener),
    [Symbol.asyncDispose]: dispose,
  };
}

/** The same test as ioredis makes: what passes is written to the socket. */
function isWritable(client: Redis): boolean {
  return client.status === "ready" && client.stream.writable;
}

function isNoScript(error: unknown): boolean {
  return error instanceof MillstreamError && String(error.details.reply).startsWith("NOSCRIPT");
}

async function remember(digests: Map<RedisScript, string>, script: RedisScript): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-1", new TextEncoder().encode(script.source)));
  const digest = Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  digests.set(script, digest);
  return digest;
}

/** Refuses what is no Redis URL. */
export function checkUrl(url: string, option = "url"): void {
  // The URL itself stays out of the message: it may hold a password.
  const protocol = typeof url === "string" && URL.canParse(url) ? new URL(url).protocol : undefined;
  if (protocol === "redis:" || protocol === "rediss:") return;
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use option "${option}": expected redis://host:port or rediss://host:port, got ${
      protocol ?? "something else"
    }`,
    { details: { option } },
  );
}

function notConnected(command: string, cause: Error | undefined): MillstreamError {
  const why = cause ? `: ${cause.message}` : "";
  return new MillstreamError("UNAVAILABLE", `Cannot send "${command}": Redis is not connected${why}`, {
    cause,
  });
}

function closed(command: string): MillstreamError {
  return new MillstreamError("CLOSED", `Cannot send "${command}": the connection was closed`);
}
