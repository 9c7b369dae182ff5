/**
 * Redis Cluster behind the Redis seam. Everything of a topic has one hash tag and so lies in one slot; topics spread
 * over the servers.
 *
 * @module
 */
import { type Clock, systemClock } from "../core/clock.ts";
import { MillstreamError } from "../core/errors.ts";
import type { RedisDriver } from "../ports/redis.ts";
import { addressOf, checkUrls, driverAt } from "./addresses.ts";
import { routedDriver, type Topology } from "./routed.ts";

/** Options of {@linkcode clusterDriver}. */
export interface ClusterOptions {
  /** Some of the servers; the others are learnt from them. User, password and TLS of the first are used for all. */
  readonly urls: readonly string[];
  /** How long connecting may take before it is tried again, in milliseconds. @default 2_500 */
  readonly connectTimeoutMs?: number;
  /** @default the runtime's own */
  readonly clock?: Clock;
}

const SLOTS = 16_384;
const ASK_MS = 500;

/**
 * Connections to a cluster. A call that a server refuses because its slot is elsewhere (MOVED, ASK), because the cluster
 * is not ready (CLUSTERDOWN, TRYAGAIN, LOADING), or that could not be sent, is repeated where it belongs until its
 * deadline; a call whose reply was lost is not.
 *
 * @throws `INVALID_ARGUMENT` if there is no URL or one is no Redis URL.
 */
export function clusterDriver(options: ClusterOptions): RedisDriver {
  const { urls, connectTimeoutMs = 2_500, clock = systemClock } = options;
  checkUrls("cluster", urls);
  const driverOf = driverAt(urls[0] ?? "", connectTimeoutMs, clock);
  const topology = clusterTopology(urls.map(addressOf), async (address) => {
    const connection = driverOf(address).connect("topology");
    try {
      return await connection.call("cluster", ["slots"], { timeoutMs: ASK_MS }) as unknown as SlotsReply;
    } finally {
      await connection[Symbol.asyncDispose]();
    }
  });
  return routedDriver({ topology, clock, driverOf });
}

/** What `CLUSTER SLOTS` says: ranges of slots with their servers, the primary first. */
export type SlotsReply = ReadonlyArray<
  readonly [first: number, last: number, primary: readonly [host: string, port: number]]
>;

/** The topology of a cluster. `ask` gets what one server says. */
export function clusterTopology(
  seeds: readonly string[],
  ask: (address: string) => Promise<SlotsReply>,
): Topology {
  let slots: string[] = [];
  let known: readonly string[] = seeds;
  let learning: Promise<void> | undefined;

  async function learn(): Promise<void> {
    let cause: unknown;
    // Those that answered last time, then those that were given: one of them may be cut off and know old things.
    for (const address of new Set([...known, ...seeds])) {
      try {
        const reply = await ask(address);
        const next: string[] = [];
        for (const [first, last, [host, port]] of reply) {
          const at = `${host === "" ? address.slice(0, address.lastIndexOf(":")) : host}:${port}`;
          for (let slot = first; slot <= last; slot++) next[slot] = at;
        }
        if (reply.length === 0) continue;
        slots = next;
        known = [...new Set(Object.values(next))];
        // Ask another one first the next time.
        known = [...known.slice(1), ...known.slice(0, 1)];
        return;
      } catch (error) {
        cause = error;
      }
    }
    throw new MillstreamError("UNAVAILABLE", "Cannot learn the slots of the cluster: no server answered", {
      cause,
    });
  }

  return {
    async locate(key) {
      if (slots.length === 0) {
        learning ??= learn().finally(() => learning = undefined);
        await learning;
      }
      const address = key === undefined ? slots.find((at) => at !== undefined) : slots[slotOf(key)];
      if (address) return address;
      slots = [];
      throw new MillstreamError("UNAVAILABLE", "Cannot find a server in the cluster: a slot has none");
    },
    moved(key, address) {
      const slot = slotOf(key);
      if (slots.length > 0) slots[slot] = address.startsWith(":") ? slots[slot] ?? address : address;
    },
    doubt() {
      slots = [];
    },
  };
}

/** The slot of a key: CRC16 (XMODEM) of what is between the first braces, or of all. Source: the Redis Cluster specification. */
export function slotOf(key: string): number {
  const open = key.indexOf("{");
  const close = key.indexOf("}", open + 1);
  const tag = open >= 0 && close > open + 1 ? key.slice(open + 1, close) : key;
  let crc = 0;
  for (const byte of new TextEncoder().encode(tag)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1 ^ 0x1021) & 0xffff : crc << 1;
  }
  return crc % SLOTS;
}
