/** Kafka when it fails, refuses, or talks to others; on a private server. */
import assert from "node:assert/strict";
import { connect } from "node:net";
import { after, test } from "node:test";
import { Kafka, type KafkaConfig } from "kafkajs";
import { kafka, kafkajs } from "../../adapters/kafka/mod.ts";
import { bindMessage } from "../../src/core/binding.ts";
import { decodeMessage } from "../../src/core/codec.ts";
import type { Broker } from "../../src/ports/broker.ts";
import { startKafka } from "../support/java_brokers.ts";
import { startProxy } from "../support/proxy.ts";
import { service } from "../support/require.ts";
import type { PrivateServer } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import {
  type Candidate,
  message,
  refusesBadInput,
  rejectsWithin,
  survivesNetworks,
  survivesRestarts,
} from "./support/broker_faults.ts";

const LOGIN = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const { skip } = service("kafka-server");
const server: PrivateServer | undefined = skip ? undefined : await startKafka({
  config: [
    "listener.security.protocol.map=PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name=PLAINTEXT",
    "sasl.enabled.mechanisms=PLAIN",
    "sasl.mechanism.inter.broker.protocol=PLAIN",
    `listener.name.plaintext.plain.sasl.jaas.config=${LOGIN} username="us" password="ours" user_us="ours";`,
    "message.max.bytes=300000",
  ],
});
after(() => server?.stop());
const SETTINGS = { sessionTimeoutMs: 1_000, rebalanceTimeoutMs: 3_000, fetchWaitMs: 50 };
const address: Candidate["address"] = ({ port = server?.port, password = "ours" } = {}) =>
  `kafka://us:${password}@127.0.0.1:${port}`;

const candidate: Candidate = {
  name: "kafka",
  server: server!,
  open(url, options) {
    const direct = kafka({ url, ...SETTINGS, ...options });
    const port = Number(/:(\d+)$/.exec(url)?.[1]);
    return port === server?.port || port === 1 ? direct : through(port, options);
  },
  address,
};
survivesRestarts(candidate, skip);
survivesNetworks(candidate, skip);
refusesBadInput(candidate, skip);

test("kafka: what is missing is not found where nothing may be made", { skip }, async () => {
  const broker = kafka({ url: address(), prefix: "missing", topics: { create: false } });
  await rejectsWithin(10_000, () => broker.publish("orders", [message("m1")]), ["NOT_FOUND"]);
  await rejectsWithin(10_000, () => broker.subscribe("orders", "billing"), ["NOT_FOUND"]);
  await broker[Symbol.asyncDispose]();
});

test(
  "kafka: a message over the server's limit is refused, and what travelled with it is not",
  { skip },
  async () => {
    const broker = kafka({ url: address(), prefix: "large" });
    const large = (bytes: number) => message("large", JSON.stringify("x".repeat(bytes)));
    await rejectsWithin(10_000, () => broker.publish("orders", [large(2_000_000)]), ["PAYLOAD_TOO_LARGE"]);
    // Together they may have been half accepted; then each is told so, and travels alone when it comes again.
    const [refused, accepted] = await Promise.all([large(301_000), message("m1")].map(async (one) => {
      for (;;) {
        const code = await broker.publish("orders", [one]).then(() => "accepted", ({ code }) => code);
        if (code !== "PUBLISH_INDETERMINATE") return code;
      }
    }));
    assert.deepEqual([refused, accepted], ["PAYLOAD_TOO_LARGE", "accepted"]);
    await broker[Symbol.asyncDispose]();
  },
);

test(
  "kafka: when the reply to a publish is lost, the publish is indeterminate, and the next one is not taken for it",
  { skip, timeout: 60_000 },
  async () => {
    await using proxy = await startProxy(server!.port);
    const broker = through(proxy.port, { prefix: "reply", timeoutMs: 1_500 });
    const group = await broker.subscribe("orders", "billing");
    await broker.publish("orders", [message("m1")]);
    const dropped = proxy.setOn("m2", "dropReplies");
    await rejectsWithin(10_000, () => broker.publish("orders", [message("m2")]), ["PUBLISH_INDETERMINATE"]);
    await dropped;
    await proxy.set("pass");
    // A producer that went on would give this one the number of the lost one, and the server would drop it as known.
    await eventually(() => broker.publish("orders", [message("m3")]).then(() => true), { withinMs: 20_000 });
    const seen = new Set<string>();
    await eventually(async () => {
      const deliveries = await group.pull(10, { waitMs: 500 });
      for (const { id } of deliveries) seen.add(id);
      await group.ack(deliveries);
      return seen.has("m1") && seen.has("m2") && seen.has("m3");
    }, { withinMs: 30_000 });
    await broker[Symbol.asyncDispose]();
  },
);

test(
  "kafka: a frozen consumer loses its partitions, and its late settlements are refused",
  { skip },
  async () => {
    await using proxy = await startProxy(server!.port);
    const frozen = through(proxy.port, { prefix: "frozen", timeoutMs: 2_000 });
    const alive = kafka({ url: address(), prefix: "frozen", ...SETTINGS });
    const before = await frozen.subscribe("orders", "billing", { leaseMs: 60_000 });
    await alive.publish("orders", [message("m1"), message("m2")]);
    const held = await before.pull(10, { waitMs: 20_000 });
    assert.equal(held.length, 2);
    await proxy.set("blackhole"); // as after a freeze: the server hears nothing for longer than the session lasts
    const next = await alive.subscribe("orders", "billing");
    const again = await eventually(async () => {
      const some = await next.pull(10, { waitMs: 500 });
      return some.length === 2 && some;
    }, { withinMs: 30_000 });
    assert.deepEqual(await next.ack(again), []);
    await proxy.set("pass");
    const lost = await eventually(() => before.ack(held), { withinMs: 30_000 });
    assert.deepEqual(lost.map(({ id }) => id).sort(), ["m1", "m2"]);
    await alive[Symbol.asyncDispose]();
    await frozen[Symbol.asyncDispose]();
  },
);

for (const mode of ["structured", "binary"] as const) {
  test(`kafka: a plain client reads our CloudEvents and we read its, in ${mode} mode`, { skip }, async () => {
    const broker = kafka({ url: address(), prefix: `ce-${mode}`, mode, ...SETTINGS });
    const group = await broker.subscribe("orders", "billing");
    const plain = client();
    const topic = `ce-${mode}.orders`;
    const consumer = plain.consumer({ groupId: `plain-${mode}`, maxWaitTimeInMs: 50 });
    const producer = plain.producer();
    try {
      await broker.publish("orders", [{ ...message("ours ü", '{"total": 42.0}'), key: "k" }]);
      await consumer.connect();
      await consumer.subscribe({ topic, fromBeginning: true });
      const got = await new Promise<{ key: string; value: string; headers: Record<string, unknown> }>(
        (resolve) => {
          void consumer.run({
            eachMessage: ({ message: { key, value, headers = {} } }) => {
              resolve({ key: String(key), value: String(value), headers });
              return Promise.resolve();
            },
          });
        },
      );
      assert.equal(got.key, "k");
      if (mode === "structured") {
        assert.match(String(got.headers["content-type"]), /^application\/cloudevents\+json/);
        assert.deepEqual(JSON.parse(got.value).data, { total: 42 });
      } else {
        assert.equal(String(got.headers["content-type"]), "application/json");
        assert.equal(got.value, '{"total": 42.0}');
        assert.equal(String(got.headers.ce_specversion), "1.0");
        assert.equal(String(got.headers.ce_id), "ours ü");
      }
      await group.ack(await group.pull(10, { waitMs: 20_000 }));

      const theirs = bindMessage(message("theirs", '{"a": [1]}'), mode);
      const headers: Record<string, string> = { "content-type": theirs.contentType };
      if (mode === "binary") {
        for (const [name, value] of Object.entries(theirs.attributes)) headers[`ce_${name}`] = value;
      }
      await producer.connect();
      await producer.send({ topic, messages: [{ key: "their key", value: theirs.body, headers }] });
      const [delivery] = await group.pull(1, { waitMs: 20_000 });
      assert.ok(delivery);
      assert.deepEqual([delivery.id, delivery.type, delivery.key], ["theirs", "order.placed", "their key"]);
      assert.deepEqual(decodeMessage(delivery.body).data, { a: [1] });
    } finally {
      await consumer.disconnect();
      await producer.disconnect();
      await broker[Symbol.asyncDispose]();
    }
  });
}

/** A client of the application's own. */
function client(more: Partial<KafkaConfig> = {}): Kafka {
  const sasl = { mechanism: "plain", username: "us", password: "ours" } as const;
  return new Kafka({ brokers: [`127.0.0.1:${server?.port}`], sasl, logLevel: 0, ...more });
}

/** A broker whose connections all go through `port`, also those to the address that the server tells its clients. */
function through(port: number, options: { readonly prefix: string; readonly timeoutMs?: number }): Broker {
  const { timeoutMs = 10_000 } = options;
  const proxied = client({
    connectionTimeout: Math.min(2_500, timeoutMs),
    authenticationTimeout: timeoutMs,
    requestTimeout: timeoutMs,
    socketFactory: ({ onConnect }) => connect({ port, host: "127.0.0.1" }, onConnect),
  });
  const driver = kafkajs(proxied, { timeoutMs });
  const broker = kafka({ driver, ...SETTINGS, ...options });
  return {
    ...broker,
    async [Symbol.asyncDispose]() {
      await broker[Symbol.asyncDispose]();
      await driver[Symbol.asyncDispose]();
    },
  };
}
