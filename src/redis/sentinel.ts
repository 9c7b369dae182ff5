/**
 * A primary that Sentinels watch over, behind the Redis seam.
 *
 * @module
 */
import { type Clock, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import { checkName } from "../core/names.ts";
import type { RedisDriver } from "../ports/redis.ts";
import { checkUrls, driverAt } from "./addresses.ts";
import { ioredisDriver } from "./ioredis.ts";
import { routedDriver, type Topology } from "./routed.ts";

/** Options of {@linkcode sentinelDriver}. */
export interface SentinelOptions {
  /** The Sentinels, each with its own user and password if it has any. */
  readonly urls: readonly string[];
  /** What the Sentinels call the primary. */
  readonly name: string;
  /**
   * A URL with the scheme, user, password and database of the primary and its replicas; its host does not matter.
   * @default neither TLS nor password, database 0
   */
  readonly server?: string;
  /** How long connecting may take before it is tried again, in milliseconds. @default 2_500 */
  readonly connectTimeoutMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

const ASK_MS = 500;

/**
 * Connections to the primary. When it cannot be reached or says that it is none (READONLY), the Sentinels are asked
 * again, and the call is repeated until its deadline; a call whose reply was lost is not.
 *
 * @throws `INVALID_ARGUMENT` if there is no URL or one is no Redis URL.
 */
export function sentinelDriver(options: SentinelOptions): RedisDriver {
  const { urls, name, server = "redis://primary", connectTimeoutMs = 2_500, clock = systemClock } = options;
  checkUrls("sentinel.urls", urls);
  checkUrls("sentinel.server", [server]);
  checkName("sentinel.name", name);
  const drivers = urls.map((url) => ioredisDriver({ url, connectTimeoutMs, clock }));
  const topology = sentinelTopology(drivers, name);
  const routed = routedDriver({ topology, clock, driverOf: driverAt(server, connectTimeoutMs, clock) });
  return {
    connect: routed.connect,
    async [Symbol.asyncDispose]() {
      await routed[Symbol.asyncDispose]();
      await Promise.all(drivers.map((driver) => driver[Symbol.asyncDispose]()));
    },
  };
}

function sentinelTopology(sentinels: readonly RedisDriver[], name: string): Topology {
  const connections = sentinels.map((sentinel) => sentinel.connect("sentinel"));
  let primary: string | undefined;
  let first = 0;

  async function ask(): Promise<string> {
    let cause: unknown;
    for (let n = 0; n < connections.length; n++) {
      const index = (first + n) % connections.length;
      try {
        const reply = await connections[index]?.call("sentinel", ["get-master-addr-by-name", name], {
          timeoutMs: ASK_MS,
        });
        if (!Array.isArray(reply)) continue;
        first = index;
        return `${reply[0]}:${reply[1]}`;
      } catch (error) {
        cause = error;
      }
    }
    throw new MillstreamError("UNAVAILABLE", `Cannot learn where "${name}" is: no Sentinel knows`, { cause });
  }

  return {
    locate: async () => primary ??= await ask(),
    moved: () => {},
    doubt: () => void (primary = undefined),
  };
}
