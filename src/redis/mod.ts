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
export type {
  RedisBroker,
  RedisCluster,
  RedisCommonOptions,
  RedisOptions,
  RedisOwnDriver,
  RedisSentinel,
  RedisUrl,
} from "./broker.ts";
export { clusterDriver } from "./cluster.ts";
export type { ClusterOptions } from "./cluster.ts";
export { sentinelDriver } from "./sentinel.ts";
export type { SentinelOptions } from "./sentinel.ts";
export type { Durability } from "./durability.ts";
export { redisIdempotency } from "./idempotency.ts";
export type { RedisIdempotency, RedisIdempotencyOptions } from "./idempotency.ts";
export { ioredisDriver } from "./ioredis.ts";
export type { IoredisOptions } from "./ioredis.ts";
export type { RedisPublishOptions } from "./publisher.ts";
export type { Retention } from "./retention.ts";
export type {
  RedisArgument,
  RedisCallOptions,
  RedisConnection,
  RedisDriver,
  RedisReply,
  RedisScript,
} from "../ports/redis.ts";
