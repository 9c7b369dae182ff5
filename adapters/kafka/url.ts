/**
 * Where a Kafka cluster is.
 *
 * @module
 */
import type { Kafka, KafkaConfig } from "kafkajs";
import { MillstreamError } from "../../src/core/errors.ts";

/** An address, taken apart. */
export interface KafkaAddress {
  /** `host:port`. */
  readonly brokers: readonly string[];
  readonly tls: boolean;
  readonly user?: { readonly name: string; readonly password: string };
}

/** Reads `kafka://[user:password@]host[:port][,host[:port]...]`, or `kafkas://`. @throws `INVALID_ARGUMENT` */
export function parseKafkaUrl(url: string): KafkaAddress {
  const [, scheme, , name, , password = "", hosts = ""] =
    /^(kafkas?):\/\/(([^:@/]+)(:([^@/]*))?@)?([A-Za-z0-9.,:[\]_-]+)\/?$/.exec(String(url)) ?? [];
  if (!scheme) {
    throw new MillstreamError(
      "INVALID_ARGUMENT",
      'Cannot use option "url": expected kafka://[user:password@]host[:port][,host[:port]] or kafkas://',
      { details: { option: "url" } }, // without the value: it may have a password in it
    );
  }
  const brokers = hosts.split(",").map((host) => /:\d+$/.test(host) ? host : `${host}:9092`);
  const address = { brokers, tls: scheme === "kafkas" };
  if (name === undefined) return address;
  return { ...address, user: { name: decodeURIComponent(name), password: decodeURIComponent(password) } };
}

/** How to make the kafkajs client of an address. The address is checked at once, the client is loaded when needed. */
export function kafkajsFor(url: string, { timeoutMs }: { readonly timeoutMs: number }): () => Promise<Kafka> {
  const { brokers, tls, user } = parseKafkaUrl(url);
  return async () => {
    const { Kafka } = await import("kafkajs").then((module) => module.default ?? module);
    const config: KafkaConfig = {
      clientId: "millstream",
      brokers: [...brokers],
      ssl: tls,
      connectionTimeout: Math.min(2_500, timeoutMs),
      requestTimeout: timeoutMs,
      logLevel: 0, // errors come back from the calls
    };
    if (!user) return new Kafka(config);
    return new Kafka({
      ...config,
      sasl: { mechanism: "plain", username: user.name, password: user.password },
    });
  };
}
