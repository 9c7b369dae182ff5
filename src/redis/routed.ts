/**
 * Connections to several servers as one: each call goes to the server that has its key now. Where that is, a
 * {@linkcode Topology} knows; when a server says or shows that it is somewhere else, the topology is asked again and the
 * call repeated, within its deadline, if it is certain that it was not executed.
 *
 * @module
 */
import { type Clock, sleep } from "../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type {
  RedisArgument,
  RedisCallOptions,
  RedisConnection,
  RedisDriver,
  RedisReply,
  RedisScript,
} from "../ports/redis.ts";

/** Knows which server is responsible. Addresses are `host:port`. */
export interface Topology {
  /** Where `key` is, or any server for no key. Asks the servers if it does not know. */
  locate(key: string | undefined, timeoutMs: number): Promise<string>;
  /** A server said that `key` is at `address`. */
  moved(key: string, address: string): void;
  /** What it knows is not true any more. */
  doubt(): void;
}

/** What {@linkcode routedDriver} needs. */
export interface RoutedContext {
  readonly topology: Topology;
  readonly clock: Clock;
  /** How to connect to one of the servers. */
  readonly driverOf: (address: string) => RedisDriver;
}

/** The longest a call waits for one server to be connected, before it asks where else to go. */
const SEND_WITHIN_MS = 500;
const PAUSE_MS = 50;
const REDIRECTIONS = 16;

/** A driver whose connections lead to several servers. */
export function routedDriver({ topology, clock, driverOf }: RoutedContext): RedisDriver {
  const drivers = new Map<string, RedisDriver>();
  const open = new Set<RedisConnection>();

  function driver(address: string): RedisDriver {
    let known = drivers.get(address);
    if (!known) drivers.set(address, known = driverOf(address));
    return known;
  }

  function connect(purpose: string): RedisConnection {
    const connections = new Map<string, RedisConnection>();
    const listeners: Array<() => void> = [];
    const seen = new Map<string | undefined, string>();
    let disposed = false;

    function at(address: string, role = ""): RedisConnection {
      const name = address + role;
      let connection = connections.get(name);
      if (!connection) {
        connections.set(name, connection = driver(address).connect(purpose + role));
        connection.onReconnect(tell);
      }
      return connection;
    }

    /** What was bound to the old connection is gone, as it is when a key is served by another server than before. */
    function tell(): void {
      for (const listener of listeners) listener();
    }

    async function route(
      key: string | undefined,
      options: RedisCallOptions,
      send: (connection: RedisConnection, options: RedisCallOptions, asking: boolean) => Promise<RedisReply>,
    ): Promise<RedisReply> {
      const deadline = clock.monotonic() + options.timeoutMs;
      let asking: string | undefined;
      for (let tries = 0;; tries++) {
        const left = Math.max(1, deadline - clock.monotonic());
        try {
          if (disposed) throw new MillstreamError("CLOSED", "Cannot reach Redis: the connection was closed");
          const address = asking ?? await topology.locate(key, left);
          if (!asking && key !== undefined) arrive(key, address);
          const timeoutMs = Math.max(1, deadline - clock.monotonic());
          const limits = { ...options, timeoutMs, sendWithinMs: Math.min(SEND_WITHIN_MS, timeoutMs) };
          const connection = at(address, asking ? ":asking" : "");
          const ask = asking !== undefined;
          asking = undefined;
          return await send(connection, limits, ask);
        } catch (error) {
          const [kind, , address] = String(isMillstreamError(error) ? error.details.reply ?? "" : "").split(
            " ",
          );
          if (disposed || tries >= REDIRECTIONS && kind === "MOVED") throw error;
          if (kind === "MOVED" && address && key !== undefined) {
            topology.moved(key, address);
          } else if (kind === "ASK" && address) {
            asking = address;
          } else {
            if (isMillstreamError(error, "UNAVAILABLE", "PUBLISH_INDETERMINATE")) topology.doubt();
            if (!isMillstreamError(error, "UNAVAILABLE")) throw error;
            if (clock.monotonic() + PAUSE_MS >= deadline) throw error;
            await sleep(clock, PAUSE_MS, options.signal);
          }
        }
      }
    }

    function arrive(key: string, address: string): void {
      const before = seen.get(key);
      seen.set(key, address);
      if (before !== undefined && before !== address) tell();
    }

    async function dispose(): Promise<void> {
      disposed = true;
      open.delete(connection);
      await Promise.all([...connections.values()].map((one) => one[Symbol.asyncDispose]()));
    }

    const connection: RedisConnection = {
      call: (command, args, options) =>
        route(options.key ?? keyIn(command, args), options, async (to, limits, asking) => {
          if (asking) await ready(to, limits);
          if (asking) to.call("asking", [], limits).catch(() => {});
          return await to.call(command, args, limits);
        }),
      script: (script: RedisScript, keys, args, options) =>
        route(keys[0], options, async (to, limits, asking) => {
          if (!asking) return await to.script(script, keys, args, limits);
          await ready(to, limits);
          // Asking is good for one command: there is no second one if the server does not know the script.
          to.call("asking", [], limits).catch(() => {});
          return await to.call("eval", [script.source, keys.length, ...keys, ...args], limits);
        }),
      onReconnect: (listener) => void listeners.push(listener),
      [Symbol.asyncDispose]: dispose,
    };
    open.add(connection);
    return connection;
  }

  return {
    connect,
    async [Symbol.asyncDispose]() {
      await Promise.all([...open].map((connection) => connection[Symbol.asyncDispose]()));
      await Promise.all([...drivers.values()].map((one) => one[Symbol.asyncDispose]()));
    },
  };
}

/** Two commands are sent together only on a connection that is there. */
async function ready(connection: RedisConnection, options: RedisCallOptions): Promise<void> {
  try {
    await connection.call("ping", [], options);
  } catch (error) {
    if (!isMillstreamError(error, "PUBLISH_INDETERMINATE")) throw error;
    throw new MillstreamError("UNAVAILABLE", error.message, { cause: error });
  }
}

const KEYLESS: ReadonlySet<string> = new Set([
  "ping",
  "info",
  "config",
  "command",
  "wait",
  "waitaof",
  "cluster",
]);

/** The first key of a command, if it has one. */
export function keyIn(command: string, args: readonly RedisArgument[]): string | undefined {
  if (KEYLESS.has(command)) return undefined;
  const streams = command.startsWith("xread") ? args.findIndex((arg) => arg === "streams") + 1 : 0;
  const key = args[streams];
  return key === undefined ? undefined : String(key);
}
