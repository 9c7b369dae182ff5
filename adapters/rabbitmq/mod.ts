/**
 * RabbitMQ as the broker, over npm `amqplib`, which the application brings along.
 *
 * @example
 * ```ts ignore
 * import { millstream } from "millstream";
 * import { rabbitmq } from "millstream/rabbitmq";
 *
 * const app = millstream({ broker: rabbitmq({ url: "amqp://localhost" }) });
 * ```
 *
 * @module
 */
export {
  rabbitmq,
  type RabbitmqCommonOptions,
  type RabbitmqOptions,
  type RabbitmqOwnConnection,
  type RabbitmqUrl,
} from "./broker.ts";
export type {
  AmqpChannel,
  AmqpConfirm,
  AmqpConnection,
  AmqpDeclaration,
  AmqpMessage,
  AmqpProperties,
  AmqpPublish,
  AmqpQueue,
} from "./driver.ts";
export type { TopologyOptions } from "./topology.ts";
