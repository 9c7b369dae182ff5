import assert from "node:assert/strict";
import { test } from "node:test";
import { bindMessage, unbindMessage } from "../../src/core/binding.ts";
import { decodeMessage, encodeMessage } from "../../src/core/codec.ts";
import type { EncodedMessage } from "../../src/core/message.ts";

const message = encodeMessage(
  {
    id: "id-1 ü",
    source: "/shop",
    type: "order.placed",
    time: "2026-01-01T00:00:00.000Z",
    schemaVersion: 3,
    data: null,
    subject: "o-1",
    key: "k:1",
    correlationId: "c",
    causationId: "p",
    userId: "u",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    headers: { tenant: "é", region: "eu" },
  },
  {},
  '{ "total" : 12345678901234567890 }',
);

for (const mode of ["structured", "binary"] as const) {
  test(`a message comes back byte for byte in ${mode} mode`, () => {
    const bound = bindMessage(message, mode);
    assert.deepEqual(unbindMessage(bound, "other"), message);
  });
}

test("binary mode has every attribute beside the data, and the data as it was written", () => {
  const { contentType, attributes, body } = bindMessage(message, "binary");
  assert.equal(contentType, "application/json");
  assert.equal(body, '{ "total" : 12345678901234567890 }');
  assert.deepEqual(attributes, {
    specversion: "1.0",
    id: "id-1 ü",
    source: "/shop",
    type: "order.placed",
    time: "2026-01-01T00:00:00.000Z",
    subject: "o-1",
    partitionkey: "k:1",
    correlationid: "c",
    causationid: "p",
    userid: "u",
    traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    schemaversion: "3",
    tenant: "é",
    region: "eu",
  });
});

test("structured mode takes id, type and key from the event where nobody repeats them beside it", () => {
  const unbound = { contentType: "Application/CloudEvents+JSON", attributes: {}, body: message.body };
  assert.deepEqual(unbindMessage(unbound, "other"), message);
});

test("a foreign event in binary mode is read, also without a content type", () => {
  const attributes = { specversion: "1.0", id: "7", source: "//py", type: "t.happened", custom: "x" };
  const read = unbindMessage({ contentType: undefined, attributes, body: '{"a":1}' }, "other");
  assert.deepEqual([read.id, read.type, read.key], ["7", "t.happened", undefined]);
  const { data, headers, schemaVersion } = decodeMessage(read.body);
  assert.deepEqual([data, headers, schemaVersion], [{ a: 1 }, { custom: "x" }, 1]);
});

test("what is no event keeps its bytes and cannot be decoded", () => {
  const cases: readonly (readonly [contentType: string | undefined, body: string])[] = [
    [undefined, "hello"],
    ["application/json", '{"id":7}'],
    ["application/cloudevents+json", "[1"],
    ["text/plain", ""],
  ];
  for (const [contentType, body] of cases) {
    const read: EncodedMessage = unbindMessage({ contentType, attributes: {}, body }, "fallback");
    assert.deepEqual(read, { id: "fallback", type: "", body });
    assert.throws(() => decodeMessage(read.body), { code: "MALFORMED_MESSAGE" });
  }
});

test("data that is not JSON stays in the message, which cannot be decoded", () => {
  const attributes = { specversion: "1.0", id: "7", source: "/x", type: "t" };
  const broken = unbindMessage({ contentType: "application/json", attributes, body: "{oops" }, "f");
  assert.ok(broken.body.includes("{oops"));
  assert.throws(() => decodeMessage(broken.body), { code: "MALFORMED_MESSAGE" });
  const text = unbindMessage({ contentType: "text/plain", attributes, body: "hello" }, "f");
  assert.throws(() => decodeMessage(text.body), { code: "MALFORMED_MESSAGE" });
});
