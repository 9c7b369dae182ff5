import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { gateway } from "../../src/gateway/mod.ts";
import { body, cloudEvent, json, problem, structured, type World, world } from "./gateway_fixture.ts";

let shared: World;
const reported: unknown[] = [];
before(async () => {
  shared = await world();
});
after(() => shared.app.close());

const BATCH = { "content-type": "application/cloudevents-batch+json" };
const BINARY = {
  "content-type": "application/json",
  "ce-specversion": "1.0",
  "ce-id": "1",
  "ce-source": "/",
  "ce-type": "t",
};
const NONE = { "if-none-match": "*" };
const ORDER = '{"orderId":"o","total":1}';
const DEEP = "[".repeat(200) + "]".repeat(200);
const LARGE = JSON.stringify("x".repeat(300_000));

function post(body: BodyInit, headers: Record<string, string>): RequestInit {
  return { method: "POST", body, headers };
}

function event(extra: Record<string, unknown>, data = "1"): RequestInit {
  return structured(cloudEvent("x", data, { type: "t", ...extra }));
}

/** What is sent, and how it must be refused. */
const CORPUS: ReadonlyArray<
  readonly [what: string, path: string, init: RequestInit, status: number, code: string]
> = [
  ["an unknown path", "/nothing", {}, 404, "ROUTE_NOT_FOUND"],
  ["the root", "/", {}, 404, "ROUTE_NOT_FOUND"],
  ["an unknown topic", "/topics/none", event({}), 404, "UNKNOWN_TOPIC"],
  ["a topic called __proto__", "/topics/__proto__", event({}), 404, "UNKNOWN_TOPIC"],
  ["a topic with a line break", "/topics/a%0D%0Ab", event({}), 404, "UNKNOWN_TOPIC"],
  ["an unknown command", "/commands/none", json({}), 404, "HANDLER_NOT_FOUND"],
  ["an unknown query", "/queries/none", {}, 404, "HANDLER_NOT_FOUND"],
  ["an unknown stream", "/streams/none", {}, 404, "NOT_FOUND"],

  ["percent-encoding in the path that is none", "/topics/%zz", event({}), 400, "INVALID_ARGUMENT"],
  ["percent-encoding in the path that is not UTF-8", "/streams/%ff", {}, 400, "INVALID_ARGUMENT"],
  ["percent-encoding in the query that is not UTF-8", "/queries/mirror?a=%ff", {}, 400, "INVALID_ARGUMENT"],
  ["percent-encoding in the query that is cut off", "/events?after=%", {}, 400, "INVALID_ARGUMENT"],
  [
    "percent-encoding in a ce header that is none",
    "/topics/github",
    post("1", { ...BINARY, "ce-id": "%zz" }),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a ce header that is not UTF-8",
    "/topics/github",
    post("1", { ...BINARY, "ce-id": "%ff" }),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a ce header that is not ASCII",
    "/topics/github",
    post("1", { ...BINARY, "ce-id": "\u00fc" }),
    400,
    "MALFORMED_MESSAGE",
  ],

  ["PUT on a topic", "/topics/order", { method: "PUT", body: "x" }, 405, "METHOD_NOT_ALLOWED"],
  ["GET on a topic", "/topics/order", {}, 405, "METHOD_NOT_ALLOWED"],
  ["DELETE on a stream", "/streams/s", { method: "DELETE" }, 405, "METHOD_NOT_ALLOWED"],
  ["PATCH on a command", "/commands/echo", { method: "PATCH" }, 405, "METHOD_NOT_ALLOWED"],
  ["OPTIONS on a query", "/queries/mirror", { method: "OPTIONS" }, 405, "METHOD_NOT_ALLOWED"],
  ["an invented method", "/events", { method: "PURGE" }, 405, "METHOD_NOT_ALLOWED"],

  [
    "an event as text",
    "/topics/order",
    post("hello", { "content-type": "text/plain" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "an event without content type",
    "/topics/order",
    post(new Uint8Array([49]), {}),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  ["plain JSON without ce headers", "/topics/order", json("{}"), 415, "UNSUPPORTED_MEDIA_TYPE"],
  [
    "a binary event that is not JSON",
    "/topics/order",
    post("x", { ...BINARY, "content-type": "text/xml" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "an event in Avro",
    "/topics/order",
    post("x", { ...BINARY, "content-type": "application/cloudevents+avro" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "an event in UTF-16",
    "/topics/order",
    post("x", { "content-type": "application/cloudevents+json; charset=utf-16" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "a compressed event",
    "/topics/order",
    post("x", { "content-type": "application/cloudevents+json", "content-encoding": "gzip" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "a command as a form",
    "/commands/echo",
    post("a=1", { "content-type": "application/x-www-form-urlencoded" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],
  [
    "a query as text",
    "/queries/mirror",
    post("{}", { "content-type": "text/plain" }),
    415,
    "UNSUPPORTED_MEDIA_TYPE",
  ],

  [
    "an event that is not JSON",
    "/topics/order",
    structured("{bad"),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "an event that is cut off",
    "/topics/order",
    structured(cloudEvent("x", ORDER).slice(0, -2)),
    400,
    "MALFORMED_MESSAGE",
  ],
  ["two events in a row", "/topics/order", structured("{}{}"), 400, "MALFORMED_MESSAGE"],
  ["an empty event", "/topics/order", structured(""), 400, "MALFORMED_MESSAGE"],
  [
    "an event that is not UTF-8",
    "/topics/order",
    post(new Uint8Array([0x22, 0xff, 0x22]), { "content-type": "application/cloudevents+json" }),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a batch that is not JSON",
    "/topics/order",
    post("[{]", BATCH),
    400,
    "MALFORMED_MESSAGE",
  ],
  ["a batch that is no array", "/topics/order", post("{}", BATCH), 400, "MALFORMED_MESSAGE"],
  ["an empty body as batch", "/topics/order", post("", BATCH), 400, "MALFORMED_MESSAGE"],
  [
    "a batch with a comma too many",
    "/topics/order",
    post(`[${cloudEvent("x", ORDER)},]`, BATCH),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "binary data that is not JSON",
    "/topics/github",
    post("{bad", BINARY),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a command that is not JSON",
    "/commands/echo",
    json("{bad"),
    400,
    "MALFORMED_MESSAGE",
  ],
  ["an empty command", "/commands/echo", json(""), 400, "MALFORMED_MESSAGE"],
  [
    "a command that is not UTF-8",
    "/commands/echo",
    post(new Uint8Array([0x22, 0xc0, 0x80, 0x22]), { "content-type": "application/json" }),
    400,
    "MALFORMED_MESSAGE",
  ],
  ["a query that is not JSON", "/queries/mirror", json("nul"), 400, "MALFORMED_MESSAGE"],
  ["NaN", "/commands/echo", json("NaN"), 400, "MALFORMED_MESSAGE"],
  ["1e999 in a command", "/commands/echo", json('{"a":[1,1e999]}'), 422, "UNSERIALIZABLE"],
  ["-1e999 in an event", "/topics/github", event({}, "-1e999"), 422, "UNSERIALIZABLE"],

  [
    "a key called __proto__ in an event",
    "/topics/github",
    event({}, '{"__proto__":{"a":1}}'),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a key that spells __proto__ with escapes",
    "/commands/echo",
    json('{"\\u005f_proto__":1}'),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a key that stands twice in the data",
    "/commands/order.place",
    json('{"orderId":"a","orderId":"b","total":1}'),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "an attribute that stands twice",
    "/topics/github",
    structured('{"specversion":"1.0","id":"a","id":"b","source":"/","type":"t"}'),
    400,
    "MALFORMED_MESSAGE",
  ],
  [
    "a ce header called __proto__",
    "/topics/github",
    post("1", { ...BINARY, "ce-__proto__": "x" }),
    422,
    "VALIDATION_FAILED",
  ],

  ["200 levels in an event", "/topics/github", event({}, DEEP), 422, "PAYLOAD_TOO_DEEP"],
  [
    "200 levels in a batch",
    "/topics/github",
    post(`[${cloudEvent("x", DEEP, { type: "t" })}]`, BATCH),
    422,
    "PAYLOAD_TOO_DEEP",
  ],
  ["200 levels in a binary event", "/topics/github", post(DEEP, BINARY), 422, "PAYLOAD_TOO_DEEP"],
  [
    "65 levels in an event",
    "/topics/github",
    event({}, "[".repeat(65) + "]".repeat(65)),
    422,
    "PAYLOAD_TOO_DEEP",
  ],
  ["200 levels in a command", "/commands/echo", json(DEEP), 422, "PAYLOAD_TOO_DEEP"],
  [
    "100,000 levels in a command",
    "/commands/echo",
    json("[".repeat(100_000) + "]".repeat(100_000)),
    422,
    "PAYLOAD_TOO_DEEP",
  ],
  ["200 levels in a query", "/queries/mirror", json(DEEP), 422, "PAYLOAD_TOO_DEEP"],

  ["300 KB in an event", "/topics/github", event({}, LARGE), 413, "PAYLOAD_TOO_LARGE"],
  ["300 KB in a binary event", "/topics/github", post(LARGE, BINARY), 413, "PAYLOAD_TOO_LARGE"],
  [
    "300 KB in one event of a batch",
    "/topics/github",
    post(`[${cloudEvent("x", LARGE, { type: "t" })}]`, BATCH),
    413,
    "PAYLOAD_TOO_LARGE",
  ],
  ["300 KB in a command", "/commands/echo", json(LARGE), 413, "PAYLOAD_TOO_LARGE"],
  ["300 KB in a query", "/queries/mirror", json(LARGE), 413, "PAYLOAD_TOO_LARGE"],
  ["300 KB that are no JSON", "/commands/echo", json("x".repeat(300_000)), 413, "PAYLOAD_TOO_LARGE"],
  [
    "five megabytes in a batch",
    "/topics/github",
    post(`[${'"x",'.repeat(1_250_000)}1]`, BATCH),
    413,
    "PAYLOAD_TOO_LARGE",
  ],
  [
    "a batch of 101",
    "/topics/order",
    post(`[${Array(101).fill(cloudEvent("x", ORDER)).join(",")}]`, BATCH),
    413,
    "PAYLOAD_TOO_LARGE",
  ],
  [
    "a batch of 101 for a stream",
    "/streams/s",
    post(`[${Array(101).fill(cloudEvent("x", ORDER)).join(",")}]`, { ...BATCH, ...NONE }),
    413,
    "PAYLOAD_TOO_LARGE",
  ],

  [
    "data of the wrong shape",
    "/topics/order",
    structured(cloudEvent("x", '{"orderId":1}')),
    422,
    "VALIDATION_FAILED",
  ],
  ["an event that is an array", "/topics/order", structured("[]"), 422, "VALIDATION_FAILED"],
  ["an event that is null", "/topics/order", structured("null"), 422, "VALIDATION_FAILED"],
  ["an event that is a number", "/topics/order", structured("1"), 422, "VALIDATION_FAILED"],
  ["a batch of numbers", "/topics/order", post("[1]", BATCH), 422, "VALIDATION_FAILED"],
  ["an event without attributes", "/topics/order", structured("{}"), 422, "VALIDATION_FAILED"],
  ["an event without id", "/topics/github", event({ id: undefined }), 422, "VALIDATION_FAILED"],
  ["an event whose id is a number", "/topics/github", event({ id: 7 }), 422, "VALIDATION_FAILED"],
  ["an event whose id is empty", "/topics/github", event({ id: "" }), 422, "VALIDATION_FAILED"],
  ["an event whose id has a line break", "/topics/github", event({ id: "a\r\nb" }), 422, "VALIDATION_FAILED"],
  [
    "an event whose id has half a surrogate",
    "/topics/github",
    structured(cloudEvent("x", "1", { type: "t" }).replace('"x"', '"\\ud800"')),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "an event whose type has a line break",
    "/topics/github",
    event({ type: "a\nid: 1" }),
    422,
    "VALIDATION_FAILED",
  ],
  ["an event whose subject is an object", "/topics/github", event({ subject: {} }), 422, "VALIDATION_FAILED"],
  [
    "an event of another specversion",
    "/topics/github",
    event({ specversion: "0.3" }),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "an event whose data is not JSON",
    "/topics/github",
    event({ datacontenttype: "text/xml" }),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "an event whose data is base64",
    "/topics/github",
    event({ data_base64: "AA==" }),
    422,
    "VALIDATION_FAILED",
  ],
  ["an event whose time is none", "/topics/github", event({ time: "yesterday" }), 422, "VALIDATION_FAILED"],
  [
    "an event whose schema version is none",
    "/topics/github",
    event({ schemaversion: 1.5 }),
    422,
    "VALIDATION_FAILED",
  ],
  ["an attribute name in capitals", "/topics/github", event({ MyExtension: "x" }), 422, "VALIDATION_FAILED"],
  ["an attribute of 10 KB", "/topics/github", event({ ext: "x".repeat(10_000) }), 422, "VALIDATION_FAILED"],
  [
    "a ce header of 10 KB",
    "/topics/github",
    post("1", { ...BINARY, "ce-subject": "x".repeat(10_000) }),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "a ce header with an encoded line break",
    "/topics/github",
    post("1", { ...BINARY, "ce-id": "a%0D%0Ab" }),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "a binary event without id",
    "/topics/github",
    post("1", { "content-type": "application/json", "ce-specversion": "1.0" }),
    422,
    "VALIDATION_FAILED",
  ],
  [
    "a schema version from the future",
    "/topics/order",
    structured(cloudEvent("x", ORDER, { schemaversion: 9 })),
    422,
    "UNKNOWN_SCHEMA_VERSION",
  ],

  [
    "a correlation id of 300 characters",
    "/commands/echo",
    json("1", { "x-correlation-id": "x".repeat(300) }),
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "a correlation id with a tab",
    "/topics/github",
    structured(cloudEvent("x", "1", { type: "t" }), { "x-correlation-id": "a\tb" }),
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "an idempotency key of 10 KB",
    "/commands/echo",
    json("1", { "idempotency-key": "x".repeat(10_000) }),
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "a token of 10 KB",
    "/queries/mirror",
    { headers: { "x-after": "9".repeat(10_000) } },
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "an event id to resume from of 10 KB",
    "/topics/github/events",
    { headers: { "last-event-id": "x".repeat(10_000) } },
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "a stream with a line break",
    "/streams/a%0Ab",
    structured(cloudEvent("x", ORDER), NONE),
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "a stream with a long name",
    `/streams/${"x".repeat(2_000)}`,
    structured(cloudEvent("x", ORDER), NONE),
    400,
    "INVALID_ARGUMENT",
  ],
  [
    "an append without a condition",
    "/streams/s",
    structured(cloudEvent("x", ORDER)),
    428,
    "PRECONDITION_REQUIRED",
  ],
];

describe("bad input is refused as what it is, and the gateway goes on:", () => {
  for (const [what, path, init, status, code] of CORPUS) {
    test(what, async () => {
      const app = gateway(shared.app, { onError: (error) => void reported.push(error) });
      const text = JSON.stringify(await problem(await app.request(path, init), status, code));
      assert.ok(text.length < 2_000, "the input is not echoed");
      assert.ok(!/node_modules|\.ts:|\.js:/.test(text), text);
      await body(await app.request("/commands/echo", json({ still: "there" })), 200);
    });
  }

  test("405 says which methods there are", async () => {
    const app = gateway(shared.app);
    const allow = async (path: string) =>
      (await app.request(path, { method: "DELETE" })).headers.get("allow");
    assert.equal(await allow("/topics/order"), "POST");
    assert.equal(await allow("/topics/order/events"), "GET, HEAD");
    assert.equal(await allow("/streams/s"), "GET, HEAD, POST");
    assert.equal(await allow("/queries/mirror"), "GET, HEAD, POST");
  });

  test("HEAD answers like GET, without a body", async () => {
    const app = gateway(shared.app);
    const live = await app.request("/health/live", { method: "HEAD" });
    assert.deepEqual([live.status, await live.text()], [200, ""]);
    assert.equal((await app.request("/streams/none", { method: "HEAD" })).status, 404);
    assert.equal((await app.request("/topics/order", { method: "HEAD" })).status, 405);
  });

  test("a body that is larger than it says is counted, not believed", async () => {
    const app = gateway(shared.app);
    const init = json(LARGE, { "content-length": "10" });
    await problem(await app.request("/commands/echo", init), 413, "PAYLOAD_TOO_LARGE");
  });

  test("a chunked body is refused as soon as it is too large, and the rest is not read", async () => {
    const app = gateway(shared.app);
    let sent = 0;
    let cancelled = false;
    const stream = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 65_536;
        controller.enqueue(new Uint8Array(65_536).fill(0x20));
      },
      cancel: () => void (cancelled = true),
    });
    const request = new Request("http://localhost/topics/github", {
      method: "POST",
      headers: BATCH,
      body: stream,
      duplex: "half",
    } as RequestInit);
    await problem(await app.fetch(request), 413, "PAYLOAD_TOO_LARGE");
    assert.ok(sent < 3_000_000, `${sent} bytes were read`);
    assert.equal(cancelled, true);
  });

  test("a body that breaks off is the client's fault", async () => {
    const app = gateway(shared.app);
    const stream = new ReadableStream<Uint8Array>({
      pull: (controller) => controller.error(new Error("connection reset")),
    });
    const headers = { "content-type": "application/json" };
    const request = new Request(
      "http://localhost/commands/echo",
      { method: "POST", headers, body: stream, duplex: "half" } as RequestInit,
    );
    await problem(await app.fetch(request), 400, "MALFORMED_MESSAGE");
  });

  test("200,000 levels and a megabyte of digits are refused within a moment", async () => {
    const app = gateway(shared.app);
    const start = performance.now();
    const deep = `[${cloudEvent("x", "[".repeat(100_000) + "]".repeat(100_000), { type: "t" })}]`;
    await problem(await app.request("/topics/github", post(deep, BATCH)), 422, "PAYLOAD_TOO_DEEP");
    const digits = Array.from(
      { length: 4 },
      (_, n) => cloudEvent(`d${n}`, "9".repeat(250_000), { type: "t" }),
    );
    const response = await app.request(
      "/topics/github",
      post(`[${digits.join(",")}]`, BATCH),
    );
    await problem(response, 422, "UNSERIALIZABLE");
    assert.ok(performance.now() - start < 2_000);
  });

  test("none of all this was an error of the server", () => {
    assert.deepEqual(reported, []);
  });
});
