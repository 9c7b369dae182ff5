/**
 * Publishing that waits until more than one memory has the messages. WAIT and WAITAOF speak of what was written before
 * on the same connection and hold that connection up, so there is one for this alone; what is published meanwhile
 * gathers and is confirmed together.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { isMillstreamError, MillstreamError } from "../core/errors.ts";
import type { RedisConnection, RedisDriver } from "../ports/redis.ts";
import { asUnavailable } from "./replies.ts";

/**
 * When a message counts as published: when the server has it in memory, when replicas have it in memory as well, or when
 * it is on the server's disk.
 */
export type Durability = "memory" | "replicated" | "fsynced";

/** What {@linkcode confirmations} needs. */
export interface ConfirmationContext {
  readonly driver: RedisDriver;
  readonly clock: Clock;
  /** How many replicas must have what is `replicated`. */
  readonly replicas: number;
}

/** Publishes with a {@linkcode Durability} above `memory`. */
export interface Confirmations {
  /**
   * Runs `write` on a connection of its own and waits until what it wrote to `key` is as durable as asked.
   *
   * @param deadline By the clock's monotonic time.
   * @throws `UNSUPPORTED` before `write` if the server cannot promise it. `PUBLISH_INDETERMINATE` if it was written and
   * not confirmed in time.
   */
  confirmed(
    level: Durability,
    key: string,
    deadline: number,
    write: (connection: RedisConnection, timeoutMs: number) => Promise<unknown>,
  ): Promise<void>;
  close(): Promise<void>;
}

/** Left of a deadline for the reply to come back after the server has given up waiting, in milliseconds. */
const REPLY_MS = 250;

/** Creates {@linkcode Confirmations}. Connects when first used. */
export function confirmations({ driver, clock, replicas }: ConfirmationContext): Confirmations {
  let opened: RedisConnection | undefined;
  let generation = 0;
  let fsync: Promise<"waitaof" | "always" | undefined> | undefined;

  function connection(): RedisConnection {
    if (opened) return opened;
    opened = driver.connect("durable");
    opened.onReconnect(() => {
      generation++;
      fsync = undefined;
    });
    return opened;
  }

  async function confirmed(
    level: Durability,
    key: string,
    deadline: number,
    write: (connection: RedisConnection, timeoutMs: number) => Promise<unknown>,
  ): Promise<void> {
    const here = connection();
    const left = (): number => Math.max(1, deadline - clock.monotonic());
    const how = level === "fsynced" ? await fsyncing(here, key, left()) : undefined;
    await write(here, left());
    if (how === "always") return; // the server answers after its fsync
    const written = generation;
    const waitMs = Math.max(1, Math.ceil(left() - Math.min(REPLY_MS, left() / 2)));
    const [command, args, wanted] = level === "fsynced"
      ? ["waitaof", [1, 0, waitMs], 1] as const
      : ["wait", [replicas, waitMs], replicas] as const;
    const reply = await here.call(command, args, { timeoutMs: left(), key });
    const found = Number(Array.isArray(reply) ? reply[0] : reply);
    // A new connection knows nothing of what was written on the one before: its count would mean nothing.
    if (found >= wanted && written === generation) return;
    const what = level === "fsynced" ? "on disk" : `on ${wanted} replicas, got ${found}`;
    throw new MillstreamError(
      "PUBLISH_INDETERMINATE",
      `Cannot confirm the messages: expected them ${what}. Publish again with the same ids`,
      { details: { durability: level, expected: wanted, confirmed: written === generation ? found : 0 } },
    );
  }

  async function fsyncing(
    here: RedisConnection,
    key: string,
    timeoutMs: number,
  ): Promise<"waitaof" | "always"> {
    fsync ??= howItSyncs(here, key, timeoutMs);
    fsync.catch(() => fsync = undefined);
    const how = await fsync;
    if (how) return how;
    throw new MillstreamError(
      "UNSUPPORTED",
      'Cannot publish with durability "fsynced": expected Redis 7.2 or later with "appendonly yes", or "appendfsync always"',
      { details: { durability: "fsynced" } },
    );
  }

  return {
    confirmed,
    close: async () => await opened?.[Symbol.asyncDispose](),
  };
}

/** How the server can promise that something is on its disk, if it can. */
async function howItSyncs(
  connection: RedisConnection,
  key: string,
  timeoutMs: number,
): Promise<"waitaof" | "always" | undefined> {
  try {
    const info = String(await connection.call("info", ["persistence"], { timeoutMs, key }));
    if (!/aof_enabled:1/.test(info)) return undefined;
    const [known] = await connection.call("command", ["info", "waitaof"], {
      timeoutMs,
      key,
    }) as readonly unknown[];
    if (known) return "waitaof";
    const [, mode] = await connection.call("config", ["get", "appendfsync"], {
      timeoutMs,
      key,
    }) as readonly string[];
    return mode === "always" ? "always" : undefined;
  } catch (error) {
    if (isMillstreamError(error, "REJECTED")) return undefined; // a server that does not let us ask
    throw asUnavailable(error);
  }
}
