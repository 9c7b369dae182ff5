import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { decodeMessage, parseEvent } from "../../src/core/codec.ts";
import { gateway } from "../../src/gateway/mod.ts";
import { body, cloudEvent, json, problem, structured, type World, world } from "./gateway_fixture.ts";
import { stoppedClock } from "./gateway_clock.ts";

let shared: World;
before(async () => {
  shared = await world();
});
after(() => shared.app.close());

const ODD =
  '{ "orderId" :\t"o-\\u0000\\ud83d\\ude00 ü" , "total":1.0,\n "more": [ 1e2 ,-0.0, 12345678901234567890 ] }';

/** Bodies of all messages of a topic. */
async function bodies(topic: string): Promise<string[]> {
  const page = await shared.app.broker.log!.read(topic, "start", { limit: 10_000, waitMs: 0 });
  return page.entries.map((entry) => entry.body);
}

async function bodyOf(topic: string, id: string): Promise<string> {
  const found = (await bodies(topic)).filter((text) => decodeMessage(text).id === id);
  assert.equal(found.length, 1, `one message with id ${id}`);
  return found[0]!;
}

describe("publishing", () => {
  test("a structured event is published once, its data byte for byte", async () => {
    const response = await gateway(shared.app).request("/topics/order", structured(cloudEvent("s-1", ODD)));
    assert.deepEqual(await body(response, 202), { ids: ["s-1"] });
    assert.equal(response.headers.get("x-content-type-options"), "nosniff");
    assert.equal(parseEvent(await bodyOf("order", "s-1")).dataText, ODD);
  });

  test("a batch is published in its order, the data of each byte for byte", async () => {
    const batch = `[ ${cloudEvent("b-1", ODD)},\n${cloudEvent("b-2", '{"orderId":"],[","total":2.50}')} ]`;
    const headers = { "content-type": "application/cloudevents-batch+json; charset=UTF-8" };
    const response = await gateway(shared.app).request("/topics/order", {
      method: "POST",
      body: batch,
      headers,
    });
    assert.deepEqual(await body(response, 202), { ids: ["b-1", "b-2"] });
    assert.equal(parseEvent(await bodyOf("order", "b-1")).dataText, ODD);
    assert.equal(parseEvent(await bodyOf("order", "b-2")).dataText, '{"orderId":"],[","total":2.50}');
    const ids = (await bodies("order")).map((text) => decodeMessage(text).id);
    assert.ok(ids.indexOf("b-1") < ids.indexOf("b-2"));
  });

  test("an empty batch publishes nothing", async () => {
    const headers = { "content-type": "application/cloudevents-batch+json" };
    const response = await gateway(shared.app).request("/topics/order", {
      method: "POST",
      body: " [] ",
      headers,
    });
    assert.deepEqual(await body(response, 202), { ids: [] });
  });

  test("a binary event takes its attributes from headers, percent-decoded and unquoted, and its data from the body", async () => {
    const headers = {
      "content-type": "application/json",
      "ce-specversion": "1.0",
      "ce-id": "bin-1",
      "ce-source": "/s%C3%BCd/%F0%9F%98%80",
      "ce-type": "order.placed",
      "ce-subject": '"a \\"quoted\\" one"',
      "ce-time": "2026-01-02T03:04:05Z",
      "ce-partitionkey": "k%20%25",
      "ce-myextension": "100%25",
    };
    const response = await gateway(shared.app).request("/topics/order", {
      method: "POST",
      body: ` ${ODD}\n`,
      headers,
    });
    assert.deepEqual(await body(response, 202), { ids: ["bin-1"] });
    const { message, dataText } = parseEvent(await bodyOf("order", "bin-1"));
    assert.equal(dataText, ODD);
    assert.equal(message.source, "/süd/😀");
    assert.equal(message.subject, 'a "quoted" one');
    assert.equal(message.time, "2026-01-02T03:04:05Z");
    assert.equal(message.key, "k %");
    assert.deepEqual(message.headers, { myextension: "100%" });
  });

  test("an event without data has null as its data, in binary mode as well", async () => {
    const headers = { "ce-specversion": "1.0", "ce-id": "n-1", "ce-source": "/", "ce-type": "ping" };
    await body(await gateway(shared.app).request("/topics/github", { method: "POST", headers }), 202);
    const bare = '{"specversion":"1.0","id":"n-2","source":"/","type":"ping"}';
    await body(await gateway(shared.app).request("/topics/github", structured(bare)), 202);
    assert.equal(decodeMessage(await bodyOf("github", "n-1")).data, null);
    assert.equal(decodeMessage(await bodyOf("github", "n-2")).data, null);
  });

  test("a topic of any type takes events that nobody declared", async () => {
    const event = cloudEvent("g-1", '{"ref":"main"}', { type: "com.github.push" });
    await body(await gateway(shared.app).request("/topics/github", structured(event)), 202);
    assert.equal(decodeMessage(await bodyOf("github", "g-1")).type, "com.github.push");
  });

  test("a missing time is now, and one that is there is kept", async () => {
    const app = gateway(shared.app, { clock: stoppedClock(Date.UTC(2030, 0, 1)) });
    const time = "1969-07-20T20:17:40+00:00";
    await body(await app.request("/topics/github", structured(cloudEvent("t-1", "1", { type: "t" }))), 202);
    await body(
      await app.request("/topics/github", structured(cloudEvent("t-2", "1", { type: "t", time: null }))),
      202,
    );
    await body(
      await app.request("/topics/github", structured(cloudEvent("t-3", "1", { type: "t", time }))),
      202,
    );
    assert.equal(decodeMessage(await bodyOf("github", "t-1")).time, "2030-01-01T00:00:00.000Z");
    assert.equal(decodeMessage(await bodyOf("github", "t-2")).time, "2030-01-01T00:00:00.000Z");
    assert.equal(decodeMessage(await bodyOf("github", "t-3")).time, time);
  });

  test("what the request says about trace and correlation counts where the event says nothing", async () => {
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const headers = { traceparent, "x-correlation-id": "request" };
    const own = cloudEvent("c-2", "1", { type: "t", correlationid: "event" });
    await body(
      await gateway(shared.app).request(
        "/topics/github",
        structured(cloudEvent("c-1", "1", { type: "t" }), headers),
      ),
      202,
    );
    await body(await gateway(shared.app).request("/topics/github", structured(own, headers)), 202);
    const [first, second] = [
      decodeMessage(await bodyOf("github", "c-1")),
      decodeMessage(await bodyOf("github", "c-2")),
    ];
    assert.deepEqual([first.traceparent, first.correlationId], [traceparent, "request"]);
    assert.equal(second.correlationId, "event");
  });

  test("a broken traceparent is ignored; it never fails an event", async () => {
    const headers = { traceparent: "00-nonsense" };
    await body(
      await gateway(shared.app).request(
        "/topics/github",
        structured(cloudEvent("tp", "1", { type: "t" }), headers),
      ),
      202,
    );
  });

  test("where the gateway knows its users, nobody publishes in another's name", async () => {
    const app = gateway(shared.app, { principal: (request) => request.headers.get("x-user") ?? undefined });
    const claim = (id: string) => cloudEvent(id, "1", { type: "t", userid: "mallory" });
    await body(await app.request("/topics/github", structured(claim("u-1"), { "x-user": "alice" })), 202);
    await body(await app.request("/topics/github", structured(claim("u-2"))), 202);
    await body(await gateway(shared.app).request("/topics/github", structured(claim("u-3"))), 202);
    assert.equal(decodeMessage(await bodyOf("github", "u-1")).userId, "alice");
    assert.equal(decodeMessage(await bodyOf("github", "u-2")).userId, undefined);
    assert.equal(decodeMessage(await bodyOf("github", "u-3")).userId, "mallory");
  });

  test("an event that does not match its schema is refused with the path, and nothing of its batch is published", async () => {
    const batch = `[${cloudEvent("v-1", '{"orderId":"o","total":1}')},${
      cloudEvent("v-2", '{"orderId":"o","total":"1"}')
    }]`;
    const headers = { "content-type": "application/cloudevents-batch+json" };
    const response = await gateway(shared.app).request("/topics/order", {
      method: "POST",
      body: batch,
      headers,
    });
    const { issues } = await problem(response, 422, "VALIDATION_FAILED");
    assert.equal((issues as Array<{ path: string }>)[0]?.path, "total");
    assert.ok(!(await bodies("order")).some((text) => text.includes('"v-1"')));
  });

  test("an event of an old schema version is published as it is, and refused if it never was one", async () => {
    const app = gateway(shared.app);
    const shipped = (id: string, data: string) =>
      structured(cloudEvent(id, data, { type: "order.shipped", schemaversion: 1 }));
    await body(await app.request("/topics/order", shipped("old-1", '{"list":[{"name":"a"}]}')), 202);
    const { message, dataText } = parseEvent(await bodyOf("order", "old-1"));
    assert.deepEqual([message.schemaVersion, dataText], [1, '{"list":[{"name":"a"}]}']);
    for (const data of ["{}", "null", '{"list":1}', '{"list":[null]}']) {
      await problem(await app.request("/topics/order", shipped("old-2", data)), 422, "VALIDATION_FAILED");
    }
  });

  test("data of exactly 64 levels is published", async () => {
    const deep = "[".repeat(64) + "]".repeat(64);
    await body(
      await gateway(shared.app).request(
        "/topics/github",
        structured(cloudEvent("deep", deep, { type: "t" })),
      ),
      202,
    );
    assert.equal(parseEvent(await bodyOf("github", "deep")).dataText, deep);
  });

  test("a middleware in front may have read the body", async () => {
    const { Hono } = await import("hono");
    const host = new Hono();
    host.use(async (c, next) => {
      await c.req.text();
      await next();
    });
    host.route("/api", gateway(shared.app));
    const response = await host.request("/api/topics/order", structured(cloudEvent("m-1", ODD)));
    assert.deepEqual(await body(response, 202), { ids: ["m-1"] });
    assert.equal(parseEvent(await bodyOf("order", "m-1")).dataText, ODD);
  });
});

describe("access", () => {
  const seen: unknown[] = [];
  const authorize = (_request: Request, access: { action: string; target: string }) => {
    seen.push(access);
    return access.target === "order";
  };

  test("is asked for action and target, and refused before anything is read or looked up", async () => {
    const app = gateway(shared.app, { authorize });
    await problem(
      await app.request("/topics/secret", json("{bad")),
      403,
      "FORBIDDEN",
    );
    await problem(
      await app.request("/commands/echo", json("{bad")),
      403,
      "FORBIDDEN",
    );
    await problem(await app.request("/queries/mirror"), 403, "FORBIDDEN");
    await problem(await app.request("/streams/s%2F1"), 403, "FORBIDDEN");
    await problem(
      await app.request("/streams/s", structured("{bad")),
      403,
      "FORBIDDEN",
    );
    await problem(await app.request("/topics/github/events"), 403, "FORBIDDEN");
    await problem(await app.request("/events"), 403, "FORBIDDEN");
    assert.deepEqual(seen, [
      { action: "topics.publish", target: "secret" },
      { action: "commands.send", target: "echo" },
      { action: "queries.ask", target: "mirror" },
      { action: "streams.read", target: "s/1" },
      { action: "streams.append", target: "s" },
      { action: "topics.subscribe", target: "github" },
      { action: "events.read", target: "" },
    ]);
    await body(
      await app.request("/topics/order", structured(cloudEvent("a-1", '{"orderId":"o","total":1}'))),
      202,
    );
  });

  test("an authorizer may answer with a status of its own", async () => {
    const { HTTPException } = await import("hono/http-exception");
    const app = gateway(shared.app, {
      authorize: () => {
        throw new HTTPException(401, { message: "Log in first" });
      },
    });
    assert.equal((await problem(await app.request("/events"), 401, "HTTP_ERROR")).detail, "Log in first");
  });

  test("health is for everybody, its details are not", async () => {
    const app = gateway(shared.app, { authorize: () => false });
    assert.deepEqual(await body(await app.request("/health/live"), 200), { live: true });
    assert.deepEqual(await body(await app.request("/health/ready"), 200), { ready: true });
    const open = await body(await gateway(shared.app).request("/health/ready"), 200);
    assert.deepEqual([open.ready, open.store, open.broker], [true, "ok", "ok"]);
  });
});

describe("mounting", () => {
  test("under a base path of its own", async () => {
    const app = gateway(shared.app, { basePath: "/v1" });
    await body(await app.request("/v1/health/live"), 200);
    await problem(await app.request("/health/live"), 404, "ROUTE_NOT_FOUND");
    await problem(await app.request("/v1/nothing"), 404, "ROUTE_NOT_FOUND");
  });

  test("in another app, whose own routes, errors and headers stay as they are", async () => {
    const { Hono } = await import("hono");
    const host = new Hono();
    host.route("/", gateway(shared.app));
    host.get("/own", (c) => c.text("own"));
    host.get("/fails", () => {
      throw new Error("own error");
    });
    host.onError((error, c) => c.text(error.message, 418));
    const own = await host.request("/own");
    assert.equal(await own.text(), "own");
    assert.equal(own.headers.get("x-content-type-options"), null);
    assert.equal((await host.request("/fails")).status, 418);
    await problem(await host.request("/topics/none", structured("{}")), 404, "UNKNOWN_TOPIC");
    await problem(await host.request("/topics/order", { method: "PUT" }), 405, "METHOD_NOT_ALLOWED");
  });

  test("options out of range are refused with their name", () => {
    for (
      const options of [{ maxStreams: -1 }, { stallMs: 0 }, {
        maxBodyBytes: NaN,
      }, { limits: { maxDepth: 0 } }]
    ) {
      const option = Object.keys(options)[0] === "limits" ? "limits.maxDepth" : Object.keys(options)[0]!;
      assert.throws(() => gateway(shared.app, options), {
        code: "INVALID_ARGUMENT",
        message: new RegExp(option),
      });
    }
  });
});
