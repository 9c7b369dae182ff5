/**
 * The consumers of an application.
 *
 * @module
 */
import { type Consumer, startConsumer } from "../messaging/consumer.ts";
import { consumerOptions } from "../messaging/consumer_options.ts";
import { deliveryHandler, type DeliveryParts } from "./deliveries.ts";
import type { Parts } from "./parts.ts";

/**
 * Makes the groups where the broker keeps nothing for those that come later, before anything can be published: by a
 * consumer that joins and leaves. Rejects if the broker cannot be reached.
 */
export async function makeGroups({ broker, registry }: Parts): Promise<void> {
  if (broker.features.replay) return;
  await Promise.all([...registry.members.values()].map(async ({ topic, group }) => {
    await (await broker.subscribe(topic, group))[Symbol.asyncDispose]();
  }));
}

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
