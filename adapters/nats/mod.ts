/**
 * NATS JetStream as the broker, over a connection of nats.js: the application's own, or one through
 * `@nats-io/transport-node`, which the application brings along.
 *
 * @example
 * ```ts ignore
 * import { millstream } from "millstream";
 * import { nats } from "millstream/nats";
 *
 * const app = millstream({ broker: nats({ url: "nats://localhost" }) });
 * ```
 *
 * @module
 */
export {
  nats,
  type NatsCommonOptions,
  type NatsOptions,
  type NatsOwnConnection,
  type NatsUrl,
} from "./broker.ts";
export type {
  NatsConnection,
  NatsHeaders,
  NatsMessage,
  NatsPublish,
  NatsRequest,
  NatsSubscribe,
  NatsSubscription,
} from "./driver.ts";
export type { StreamOptions } from "./streams.ts";
