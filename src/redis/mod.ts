/**
 * Redis Streams behind the broker port.
 *
 * ```ts
 * import { redis } from "millstream/redis";
 *
 * const broker = redis({ url: "redis://localhost:6379" });
 * ```
 *
 * @module
 */
export { redis } from "./broker.ts";
export type { RedisCommonOptions, RedisOptions, RedisOwnDriver, RedisUrl } from "./broker.ts";
export { ioredisDriver } from "./ioredis.ts";
export type { IoredisOptions } from "./ioredis.ts";
export type {
  RedisArgument,
  RedisCallOptions,
  RedisConnection,
  RedisDriver,
  RedisReply,
  RedisScript,
} from "../ports/redis.ts";
