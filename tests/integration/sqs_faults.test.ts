/** SQS when it fails, refuses, or talks to others; on a private ElasticMQ. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import { sqs, type SqsCall } from "../../adapters/sqs/mod.ts";
import { decodeMessage } from "../../src/core/codec.ts";
import { isMillstreamError } from "../../src/core/errors.ts";
import { startElasticmq } from "../support/java_brokers.ts";
import { service } from "../support/require.ts";
import type { PrivateServer } from "../support/servers.ts";
import { message, rejectsWithin, survivesNetworks } from "./support/broker_faults.ts";

const { skip } = service("elasticmq");
const server: PrivateServer | undefined = skip ? undefined : await startElasticmq();
after(() => server?.stop());
const address = ({ port = server?.port }: { port?: number } = {}) => `sqs://key:secret@127.0.0.1:${port}`;
const SETTINGS = { refreshMs: 0, pollMs: 1_000 };

survivesNetworks({
  name: "sqs",
  server: server!,
  open: (url, options) => sqs({ url, ...SETTINGS, ...options }),
  address,
}, skip);

test("sqs: an address that is none is refused before any connection, without showing it", () => {
  for (const url of ["", "kafka://x", "user:hidden@host", "not a url", "https://key:hidden@queues.example"]) {
    assert.throws(() => sqs({ url }), (error) => {
      assert.ok(isMillstreamError(error, "INVALID_ARGUMENT"), String(error));
      assert.doesNotMatch(error.message, /hidden/);
      return true;
    });
  }
});

test("sqs: nobody at the address is unavailable, in time", async () => {
  const broker = sqs({ url: address({ port: 1 }), timeoutMs: 2_000 });
  await rejectsWithin(10_000, () => broker.ping(), ["UNAVAILABLE"]);
  await rejectsWithin(10_000, () => broker.publish("orders", [message("m1")]), ["UNAVAILABLE"]);
  await rejectsWithin(10_000, () => broker.subscribe("orders", "billing"), ["UNAVAILABLE"]);
  await broker[Symbol.asyncDispose]();
});

test("sqs: who may not is refused for good, whichever client says so", async () => {
  const denied = Object.assign(new Error("User is not authorized"), {
    name: "AccessDeniedException",
    $metadata: { httpStatusCode: 403 },
  });
  const broker = sqs({ call: () => Promise.reject(denied) });
  for (
    const call of [
      () => broker.ping(),
      () => broker.publish("orders", [message("m1")]),
      () => broker.subscribe("orders", "billing"),
    ]
  ) await rejectsWithin(5_000, call, ["REJECTED"]);
  await broker[Symbol.asyncDispose]();
});

test("sqs: one message of a batch that fails fails its publish, and not the others that travelled with it", async () => {
  const call: SqsCall = (action, input) => {
    assert.equal(action, "SendMessageBatch");
    const entries = input.Entries as ReadonlyArray<{ Id: string; MessageBody: string }>;
    const bad = entries.filter(({ MessageBody }) => MessageBody.includes('"bad"'));
    return Promise.resolve({
      Successful: entries.filter((entry) => !bad.includes(entry)),
      Failed: bad.map(({ Id }) => ({ Id, Code: "InternalError", Message: "try again" })),
    });
  };
  const queue = { queueUrl: "https://sqs/1/orders", deadQueueUrl: "https://sqs/1/dead" };
  const broker = sqs({ call, routes: { orders: { billing: queue } } });
  const publishing = [["good"], ["bad"], ["good", "bad"]].map((ids) =>
    broker.publish("orders", ids.map((id) => message(id))).then(() => "accepted", ({ code }) => code)
  );
  assert.deepEqual(await Promise.all(publishing), ["accepted", "UNAVAILABLE", "PUBLISH_INDETERMINATE"]);
  await broker[Symbol.asyncDispose]();
});

test("sqs: what is missing is not found where nothing may be made", { skip }, async () => {
  const broker = sqs({ url: address(), queues: { create: false } });
  await rejectsWithin(10_000, () => broker.subscribe("missing", "billing"), ["NOT_FOUND"]);
  await broker[Symbol.asyncDispose]();
});

test("sqs: a message over the limit is refused before it is sent", { skip }, async () => {
  const broker = sqs({ url: address(), ...SETTINGS });
  const large = message("large", JSON.stringify("x".repeat(262_144)));
  await rejectsWithin(5_000, () => broker.publish("orders", [large]), ["PAYLOAD_TOO_LARGE"]);
  await broker[Symbol.asyncDispose]();
});

for (const mode of ["structured", "binary"] as const) {
  test(`sqs: a plain client reads our CloudEvents and we read its, in ${mode} mode`, { skip }, async () => {
    const broker = sqs({ url: address(), prefix: mode, mode, ...SETTINGS });
    const group = await broker.subscribe("orders", "billing");
    try {
      const { QueueUrl } = await plain("GetQueueUrl", { QueueName: `${mode}_-orders_-billing` });
      await broker.publish("orders", [{ ...message("ours ü", '{"total": 42.0}'), key: "k" }]);
      const { Messages: [got] } = await plain("ReceiveMessage", {
        QueueUrl,
        WaitTimeSeconds: 5,
        MessageAttributeNames: ["All"],
      });
      const attribute = (name: string) => got.MessageAttributes[name]?.StringValue;
      assert.equal(attribute("ce_id"), "ours ü");
      assert.equal(attribute("ce_partitionkey"), "k");
      if (mode === "structured") {
        assert.match(attribute("content-type"), /^application\/cloudevents\+json/);
        assert.deepEqual(JSON.parse(got.Body).data, { total: 42 });
      } else {
        assert.equal(attribute("content-type"), "application/json");
        assert.equal(attribute("ce_specversion"), "1.0");
        assert.equal(got.Body, '{"total": 42.0}');
      }
      await plain("DeleteMessage", { QueueUrl, ReceiptHandle: got.ReceiptHandle });

      const text = (StringValue: string) => ({ DataType: "String", StringValue });
      const theirs = mode === "structured" ? { MessageBody: message("theirs", '{"a": [1]}').body } : {
        MessageBody: '{"a": [1]}',
        MessageAttributes: {
          "content-type": text("application/json"),
          ce_specversion: text("1.0"),
          ce_id: text("theirs"),
          ce_source: text("/shop"),
          ce_type: text("order.placed"),
        },
      };
      await plain("SendMessage", { QueueUrl, ...theirs });
      const [delivery] = await group.pull(1, { waitMs: 10_000 });
      assert.ok(delivery);
      assert.deepEqual([delivery.id, delivery.type], ["theirs", "order.placed"]);
      assert.deepEqual(decodeMessage(delivery.body).data, { a: [1] });
      assert.deepEqual(await group.ack([delivery]), []);
    } finally {
      await broker[Symbol.asyncDispose]();
    }
  });
}

/** A call by hand. ElasticMQ does not look at signatures. */
// deno-lint-ignore no-explicit-any -- whatever the server says
async function plain(action: string, input: object): Promise<any> {
  const reply = await fetch(server!.url, {
    method: "POST",
    headers: { "content-type": "application/x-amz-json-1.0", "x-amz-target": `AmazonSQS.${action}` },
    body: JSON.stringify(input),
  });
  assert.equal(reply.status, 200, await reply.clone().text());
  const text = await reply.text();
  return text === "" ? {} : JSON.parse(text);
}
