/**
 * The README's table of brokers, made from what the brokers say of themselves.
 *
 * @module
 */
import { kafka } from "../../adapters/kafka/mod.ts";
import { nats } from "../../adapters/nats/mod.ts";
import { rabbitmq } from "../../adapters/rabbitmq/mod.ts";
import { sqs } from "../../adapters/sqs/mod.ts";
import { memoryBroker } from "../../src/memory/broker.ts";
import type { Broker, BrokerFeatures } from "../../src/ports/broker.ts";
import { postgres } from "../../src/postgres/mod.ts";
import { redis } from "../../src/redis/mod.ts";

/** Features in the words of the README. */
const ROWS: ReadonlyArray<readonly [feature: keyof BrokerFeatures["reasons"], words: string]> = [
  ["persistent", "survives every process that uses it"],
  ["replay", "a new group begins with what was published before it"],
  ["replaySince", "a new group begins at a moment"],
  ["keyOrder", "one key in order across all consumers of a group, also through retries"],
  ["delay", "delays"],
  ["reschedules", "a delayed message can be called off or moved"],
  ["deduplicates", "recognises an id that is published again"],
  ["fencedAck", "a settlement after the lease was lost is refused"],
  ["countsStarts", "counts the handlers that began, to find what kills its process"],
  ["listsGroups", "lists groups that others have joined"],
];

/** The features of every broker, in the order of the table. Nothing is connected to. */
export async function brokerFeatures(): Promise<readonly BrokerFeatures[]> {
  const store = postgres({ url: "postgres://127.0.0.1:1/none" });
  const carried = store.broker?.();
  const brokers: Broker[] = [
    memoryBroker(),
    ...carried ? [carried] : [],
    redis({ url: "redis://127.0.0.1:1" }),
    kafka({ url: "kafka://127.0.0.1:1" }),
    rabbitmq({ url: "amqp://127.0.0.1:1" }),
    nats({ url: "nats://127.0.0.1:1" }),
    sqs({ url: "sqs://127.0.0.1:1" }),
    sqs({ url: "sqs://127.0.0.1:1", fifo: true }),
  ];
  const features = brokers.map((broker) => broker.features);
  await Promise.all(brokers.map((broker) => broker[Symbol.asyncDispose]()));
  await store[Symbol.asyncDispose]();
  return features;
}

/** The table and the reasons, in Markdown. */
export function guaranteeTable(brokers: readonly BrokerFeatures[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  const cell = (broker: BrokerFeatures, feature: keyof BrokerFeatures["reasons"]): string =>
    !broker[feature] ? "–" : broker.emulated?.[feature] ? "by the adapter" : "yes";
  const table = [
    line(["", ...brokers.map(({ name }) => name)]),
    `|${"---|".repeat(brokers.length + 1)}`,
    ...ROWS.map(([feature, words]) => line([words, ...brokers.map((broker) => cell(broker, feature))])),
  ];
  const notes = brokers.flatMap(({ name, reasons, emulated = {} }) => {
    const lines = ROWS.flatMap(([feature]) => [
      ...reasons[feature] ? [`  - no \`${feature}\`: ${reasons[feature]}`] : [],
      ...emulated[feature] ? [`  - \`${feature}\` by the adapter: ${emulated[feature]}`] : [],
    ]);
    return lines.length === 0 ? [] : [`- **${name}**`, ...lines];
  });
  return [...table, "", ...notes].join("\n");
}
