import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { gateway } from "../../src/gateway/mod.ts";
import { body, json, problem, type World, world } from "./gateway_fixture.ts";

let shared: World;
before(async () => {
  shared = await world();
});
after(() => shared.app.close());

describe("a query", () => {
  test("takes its parameters from the query string: text, and an array where one is repeated", async () => {
    const response = await gateway(shared.app).request("/queries/mirror?a=1&b=x%20y+z&a=2&empty=");
    assert.deepEqual(await body(response, 200), { a: ["1", "2"], b: "x y z", empty: "" });
    assert.equal(response.headers.get("cache-control"), "no-store");
  });

  test("takes its parameters from a JSON body", async () => {
    assert.deepEqual(
      await body(await gateway(shared.app).request("/queries/mirror", json({ a: [1, null] })), 200),
      { a: [1, null] },
    );
  });

  test("with parameters that do not match is refused", async () => {
    await problem(
      await gateway(shared.app).request("/queries/order.ids?minimum=1&minimum=2"),
      422,
      "VALIDATION_FAILED",
    );
  });

  test("whose answer does not match its own schema is the server's fault, not the client's", async () => {
    await problem(await gateway(shared.app).request("/queries/count?answer=1"), 500, "INTERNAL");
    await problem(
      await gateway(shared.app).request("/queries/count?answer=1&answer=2"),
      422,
      "VALIDATION_FAILED",
    );
  });

  test("that nobody answers is not found", async () => {
    await problem(await gateway(shared.app).request("/queries/none"), 404, "HANDLER_NOT_FOUND");
    await problem(await gateway(shared.app).request("/queries/constructor"), 404, "HANDLER_NOT_FOUND");
  });

  test("cannot be used to change prototypes", async () => {
    await problem(await gateway(shared.app).request("/queries/mirror?__proto__=1"), 400, "INVALID_ARGUMENT");
    await problem(
      await gateway(shared.app).request("/queries/mirror", json('{"__proto__":{"a":1}}')),
      400,
      "MALFORMED_MESSAGE",
    );
    assert.deepEqual(
      await body(await gateway(shared.app).request("/queries/mirror?constructor=1"), 200),
      { constructor: "1" },
    );
  });

  for (const token of ["", "abc", "-1", "1.5", "9".repeat(19), "1;drop", "0x10", "١"]) {
    test(`with the forged token ${JSON.stringify(token)} is refused`, async () => {
      const headers = { "x-after": encodeURIComponent(token) === token ? token : "%" };
      await problem(
        await gateway(shared.app).request("/queries/mirror", { headers }),
        400,
        "INVALID_ARGUMENT",
      );
    });
  }
});

describe("reading one's own write", () => {
  const place = async (orderId: string) => {
    const response = await gateway(shared.app).request("/commands/order.place", json({ orderId, total: 1 }));
    await body(response, 200);
    return { "x-after": response.headers.get("x-position")! };
  };

  test("a query with X-After sees what the command did, every time", async () => {
    for (let n = 0; n < 20; n++) {
      const headers = await place(`own-${n}`);
      const ids = await body<string[]>(
        await gateway(shared.app).request("/queries/order.ids", { headers }),
        200,
      );
      assert.ok(ids.includes(`own-${n}`));
    }
  });

  test("a read model that is too far behind is told as such, and to be asked again", async () => {
    const app = gateway(shared.app, { queryWaitMs: 20 });
    const release = shared.breakProjection();
    try {
      const headers = await place("late");
      const response = await app.request("/queries/order.ids", { headers });
      assert.equal(response.headers.get("retry-after"), "1");
      assert.equal((await problem(response, 503, "NOT_CAUGHT_UP")).retryable, true);
      assert.equal((await app.request("/queries/order.ids")).status, 200, "without X-After nobody waits");
    } finally {
      release();
    }
  });
});
