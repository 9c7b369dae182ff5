import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { gateway } from "../../src/gateway/mod.ts";
import { body, json, problem, until, type World, world } from "./gateway_fixture.ts";

let shared: World;
before(async () => {
  shared = await world();
});
after(() => shared.app.close());

describe("a command", () => {
  test("answers with its result, the stream's version as ETag and its position", async () => {
    const response = await gateway(shared.app).request(
      "/commands/order.place",
      json({ orderId: "c-1", total: 1 }),
    );
    const answer = await body(response, 200);
    assert.equal(typeof answer.id, "string");
    assert.equal(answer.version, 1);
    assert.match(String(answer.stream), /c-1/);
    assert.equal(response.headers.get("etag"), '"1"');
    assert.match(response.headers.get("x-position")!, /^\d+$/);
    assert.equal(response.headers.get("x-position"), answer.position);
  });

  test("that appends nothing answers without version and position", async () => {
    const response = await gateway(shared.app).request("/commands/echo", json([1, { a: null }]));
    const answer = await body<{ result: { data: unknown } }>(response, 200);
    assert.deepEqual(answer.result.data, [1, { a: null }]);
    assert.ok(!("version" in answer) && !response.headers.has("etag") && !response.headers.has("x-position"));
  });

  test("carries user, correlation and trace of the request", async () => {
    const app = gateway(shared.app, { principal: () => "alice" });
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const { result } = await body<{ result: Record<string, string> }>(
      await app.request("/commands/echo", json({}, { traceparent, "x-correlation-id": "corr 1" })),
      200,
    );
    assert.deepEqual([result.userId, result.correlationId], ["alice", "corr 1"]);
    assert.match(result.traceparent!, /^00-0af7651916cd43dd8448eb211c80319c-/);
  });

  test("that the domain refuses says why, and is not to be repeated", async () => {
    const app = gateway(shared.app);
    await body(await app.request("/commands/order.place", json({ orderId: "r-1", total: 1 })), 200);
    const refused = await problem(
      await app.request("/commands/order.place", json({ orderId: "r-1", total: 1 })),
      409,
      "REFUSED",
    );
    assert.deepEqual([refused.reason, refused.retryable, refused.detail], [
      "ORDER_EXISTS",
      false,
      "Order r-1 exists",
    ]);
  });

  test("whose handler breaks tells clients nothing, and the operator everything", async () => {
    const reported: unknown[] = [];
    const app = gateway(shared.app, { onError: (error) => void reported.push(error) });
    for (const how of ["error", "string", "result", "publish", "dispatch"]) {
      const response = await app.request("/commands/broken", json({ how }));
      const text = JSON.stringify(await problem(response, 500, "INTERNAL"));
      assert.ok(!text.includes("secret"), text);
    }
    assert.equal(reported.length, 5);
  });

  test("whose answer does not match its own schema is the server's fault, not the client's", async () => {
    const reported: unknown[] = [];
    const app = gateway(shared.app, { onError: (error) => void reported.push(error) });
    assert.equal((await body(await app.request("/commands/typed", json({ answer: 1 })), 200)).result, 1);
    await problem(await app.request("/commands/typed", json({ answer: "1" })), 500, "INTERNAL");
    assert.equal(reported.length, 1);
    await problem(await app.request("/commands/typed", json([])), 422, "VALIDATION_FAILED");
  });

  test("with data that does not match its schema is refused with the path", async () => {
    const response = await gateway(shared.app).request(
      "/commands/order.place",
      json({ orderId: "v", total: "1" }),
    );
    const { issues } = await problem(response, 422, "VALIDATION_FAILED");
    assert.equal((issues as Array<{ path: string }>)[0]?.path, "total");
  });

  test("that nobody handles is not found", async () => {
    await problem(
      await gateway(shared.app).request("/commands/order.unknown", json({})),
      404,
      "HANDLER_NOT_FOUND",
    );
    await problem(
      await gateway(shared.app).request("/commands/__proto__", json({})),
      404,
      "HANDLER_NOT_FOUND",
    );
  });
});

describe("an idempotency key", () => {
  const send = (key: string, payload: unknown, options = {}, type = "echo") =>
    gateway(shared.app, options).request(
      `/commands/${type}`,
      json(payload, { "idempotency-key": key }),
    );

  test("runs the command once; the second call gets the first one's answer and is told so", async () => {
    const before = shared.echoes();
    const first = await send("once", { n: 1 });
    const second = await send("once", { n: 1 });
    assert.equal(first.headers.get("idempotency-replayed"), null);
    assert.equal(second.headers.get("idempotency-replayed"), "true");
    assert.deepEqual(await body(second, 200), await body(first, 200));
    assert.equal(shared.echoes(), before + 1);
  });

  test("the second answer has the first one's ETag and position", async () => {
    const first = await send("etag", { orderId: "i-1", total: 1 }, {}, "order.place");
    const second = await send("etag", { orderId: "i-1", total: 1 }, {}, "order.place");
    assert.equal(second.headers.get("etag"), '"1"');
    assert.equal(second.headers.get("x-position"), first.headers.get("x-position"));
    assert.equal(await second.text(), await first.text());
  });

  test("is the same quoted or bare", async () => {
    await body(await send("quoted key", 1), 200);
    assert.equal((await send('"quoted key"', 1)).headers.get("idempotency-replayed"), "true");
  });

  test("with another payload is refused", async () => {
    await body(await send("reused", { n: 1 }), 200);
    await problem(await send("reused", { n: 2 }), 422, "IDEMPOTENCY_KEY_REUSED");
  });

  test("of a call that still runs is refused for now: two calls at once run the command once", async () => {
    const before = shared.echoes();
    const release = shared.hold();
    const first = send("busy", {});
    await until(() => shared.echoes() === before + 1, "the first call runs");
    const second = await send("busy", {});
    assert.ok(second.headers.has("retry-after"));
    assert.equal((await problem(second, 409, "IDEMPOTENCY_IN_PROGRESS")).retryable, true);
    release();
    await body(await first, 200);
    assert.equal((await send("busy", {})).headers.get("idempotency-replayed"), "true");
    assert.equal(shared.echoes(), before + 1);
  });

  test("belongs to one command and one user: nobody sees another's answer", async () => {
    const as = (user: string) => ({ principal: () => user });
    const mine = await body(await send("shared", 1, as("alice")), 200);
    const response = await send("shared", 1, as("bob"));
    assert.equal(response.headers.get("idempotency-replayed"), null);
    assert.notEqual((await body(response, 200)).id, mine.id);
    assert.equal((await send("shared", 1, as("alice"))).headers.get("idempotency-replayed"), "true");
    await problem(await send("shared", { orderId: 1 }, as("alice"), "order.place"), 422, "VALIDATION_FAILED");
  });

  test("of a call that failed may be used again", async () => {
    await problem(await send("failed", { how: "error" }, {}, "broken"), 500, "INTERNAL");
    await problem(await send("failed", { how: "error" }, {}, "broken"), 500, "INTERNAL");
  });

  for (const key of ["", "x".repeat(256), "tab\there", "ümlaut", '"open', '"in"side"']) {
    test(`${JSON.stringify(key.slice(0, 10))} is refused`, async () => {
      await problem(await send(key, 1), 400, "INVALID_ARGUMENT");
    });
  }
});

describe("Prefer: respond-async", () => {
  const app = () => gateway(shared.app);
  const send = (payload: unknown, headers: Record<string, string> = {}, type = "echo") =>
    app().request(
      `/commands/${type}`,
      json(payload, { prefer: "respond-async, wait=10", ...headers }),
    );

  test("answers 202 with the command's id while it runs", async () => {
    const before = shared.echoes();
    const release = shared.hold();
    const response = await send({});
    assert.equal(response.headers.get("preference-applied"), "respond-async");
    assert.equal(typeof (await body(response, 202)).id, "string");
    release();
    await until(() => shared.echoes() === before + 1, "the command ran");
  });

  test("with an idempotency key, asking again tells what became of it", async () => {
    const release = shared.hold();
    const key = { "idempotency-key": "async" };
    const { id } = await body(await send({}, key), 202);
    await problem(await send({}, key), 409, "IDEMPOTENCY_IN_PROGRESS");
    release();
    await until(async () => (await send({}, key)).status === 200, "the command is done");
    const again = await send({}, key);
    assert.equal(again.headers.get("idempotency-replayed"), "true");
    assert.equal((await body(again, 200)).id, id);
    await problem(await send({ other: true }, key), 422, "IDEMPOTENCY_KEY_REUSED");
  });

  test("does not hide what is wrong with the request", async () => {
    await problem(await send({ orderId: "x" }, {}, "order.place"), 422, "VALIDATION_FAILED");
    await problem(await send({}, {}, "none"), 404, "HANDLER_NOT_FOUND");
  });

  test("reports a command that fails after the response", async () => {
    const reported: unknown[] = [];
    const app = gateway(shared.app, { onError: (error) => void reported.push(error) });
    const response = await app.request(
      "/commands/broken",
      json({ how: "error" }, { prefer: "respond-async" }),
    );
    assert.equal(response.status, 202);
    await until(() => reported.length === 1, "the error is reported");
  });

  test("any other preference is ignored", async () => {
    const response = await app().request("/commands/echo", json(1, { prefer: "return=minimal" }));
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("preference-applied"), null);
  });
});
