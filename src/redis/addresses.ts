/**
 * Addresses of servers, and URLs made of them.
 *
 * @module
 */
import type { Clock } from "../core/clock.ts";
import { describe, MillstreamError } from "../core/errors.ts";
import type { RedisDriver } from "../ports/redis.ts";
import { checkUrl, ioredisDriver } from "./ioredis.ts";

/** Host and port of a URL. */
export function addressOf(url: string): string {
  const { hostname, port } = new URL(url);
  return `${hostname}:${port || 6379}`;
}

/** Refuses a list that is empty or holds what is no Redis URL. */
export function checkUrls(option: string, urls: readonly string[]): void {
  if (!Array.isArray(urls) || urls.length === 0) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      `Cannot use option "${option}": expected a list of Redis URLs, got ${describe(urls)}`,
      { details: { option } },
    );
  }
  for (const url of urls) checkUrl(url, option);
}

/** Connects to any address with the scheme, user, password and database of `url`. */
export function driverAt(
  url: string,
  connectTimeoutMs: number,
  clock: Clock,
): (address: string) => RedisDriver {
  return (address) => {
    const target = new URL(url);
    const colon = address.lastIndexOf(":");
    const host = address.slice(0, colon);
    target.hostname = host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
    target.port = address.slice(colon + 1);
    return ioredisDriver({ url: target.href, connectTimeoutMs, clock });
  };
}
