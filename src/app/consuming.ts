/**
 * The consumers of an application.
 *
 * @module
 */
import { type Consumer, startConsumer } from "../messaging/consumer.ts";
import { consumerOptions } from "../messaging/consumer_options.ts";
import { deliveryHandler, type DeliveryParts } from "./deliveries.ts";
import type { Parts } from "./parts.ts";

/** Starts one consumer for each group member that is registered. */
export function startConsumers(
  parts: Parts,
  { dispatch, ask }: Pick<DeliveryParts, "dispatch" | "ask">,
): readonly Consumer[] {
  const { retry, registry } = parts;
  return [...registry.members.values()].map((member) => {
    const options = consumerOptions({ ...(retry ? { retry } : {}), ...member.options });
    return startConsumer(parts, member, options, deliveryHandler({ ...parts, dispatch, ask }, member));
  });
}
