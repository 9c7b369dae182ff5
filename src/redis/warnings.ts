/**
 * Settings of the server with which it may lose what it accepted.
 *
 * @module
 */
import type { Observer } from "../core/observer.ts";
import type { RedisConnection } from "../ports/redis.ts";

/** Reports settings that do not go with a broker. Never rejects: what cannot be asked is not reported. */
export async function warn(
  connection: RedisConnection,
  observe: Observer,
  options: { readonly key: string; readonly timeoutMs: number },
): Promise<void> {
  try {
    const memory = String(await connection.call("info", ["memory"], options));
    const policy = /maxmemory_policy:(\S+)/.exec(memory)?.[1];
    if (policy !== undefined && policy !== "noeviction") {
      const detail = `maxmemory-policy is ${policy}, expected noeviction: the server may drop whole topics`;
      observe({ kind: "server-warning", what: "redis", detail });
    }
    const persistence = String(await connection.call("info", ["persistence"], options));
    if (/aof_enabled:0/.test(persistence)) {
      const detail =
        "appendonly is no, expected yes: what came after the last snapshot is lost with the server";
      observe({ kind: "server-warning", what: "redis", detail });
    }
  } catch {
    // The calls that matter will say what is wrong.
  }
}
