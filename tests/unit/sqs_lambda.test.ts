import assert from "node:assert/strict";
import { test } from "node:test";
import { handleSqsEvent, type LambdaSqsEvent } from "../../adapters/sqs/mod.ts";

const record = (messageId: string, more: object = {}): LambdaSqsEvent["Records"][number] => ({
  messageId,
  receiptHandle: "r",
  body: `{"specversion":"1.0","id":"e-${messageId}","source":"/s","type":"order.placed","data":1}`,
  ...more,
});

test("Lambda: what was handled is not named, what failed is, and the others go on", async () => {
  const handled: string[] = [];
  const answer = await handleSqsEvent({ Records: [record("1"), record("2"), record("3")] }, ({ id }) => {
    if (id === "e-2") return Promise.reject(new Error("no"));
    handled.push(id);
    return Promise.resolve();
  });
  assert.deepEqual(handled.sort(), ["e-1", "e-3"]);
  assert.deepEqual(answer, { batchItemFailures: [{ itemIdentifier: "2" }] });
});

test("Lambda: a failed message of a FIFO group takes its followers with it, and no other group", async () => {
  const group = (MessageGroupId: string) => ({ attributes: { MessageGroupId } });
  const Records = [
    record("1", group("a")),
    record("2", group("b")),
    record("3", group("a")),
    record("4", group("b")),
  ];
  const handled: string[] = [];
  const answer = await handleSqsEvent({ Records }, ({ id }) => {
    handled.push(id);
    return id === "e-1" ? Promise.reject(new Error("no")) : Promise.resolve();
  });
  assert.deepEqual(handled.sort(), ["e-1", "e-2", "e-4"]);
  assert.deepEqual(answer.batchItemFailures.map(({ itemIdentifier }) => itemIdentifier).sort(), ["1", "3"]);
});

test("Lambda: attempts and attributes of binary mode are read", async () => {
  const attribute = (stringValue: string) => ({ stringValue, dataType: "String" });
  const messageAttributes = {
    "content-type": attribute("application/json"),
    ce_specversion: attribute("1.0"),
    ce_id: attribute("e-1"),
    ce_type: attribute("order.placed"),
    ce_source: attribute("/s"),
    ce_more: attribute('{"partitionkey":"k"}'),
  };
  const more = { body: "[1.0]", messageAttributes, attributes: { ApproximateReceiveCount: "3" } };
  await handleSqsEvent({ Records: [record("1", more)] }, ({ id, type, key, body, attempt }) => {
    assert.deepEqual([id, type, key, attempt], ["e-1", "order.placed", "k", 3]);
    assert.ok(body.endsWith('"data":[1.0]}'));
    return Promise.resolve();
  });
});
