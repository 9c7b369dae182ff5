/**
 * What tests do to a Redis server behind the broker's back.
 *
 * @module
 */
import { ioredisDriver } from "../../../src/redis/mod.ts";
import type { RedisReply } from "../../../src/ports/redis.ts";

/** Runs one command on a connection of its own. */
export async function command(
  url: string,
  name: string,
  ...args: readonly (string | number)[]
): Promise<RedisReply> {
  const driver = ioredisDriver({ url });
  try {
    return await driver.connect("test").call(name, args, { timeoutMs: 5_000 });
  } finally {
    await driver[Symbol.asyncDispose]();
  }
}

/** Removes everything that a broker with this prefix made. */
export async function removeKeys(url: string, prefix: string): Promise<void> {
  const keys = await command(url, "keys", `${prefix}:*`) as readonly string[];
  if (keys.length > 0) await command(url, "unlink", ...keys);
}
