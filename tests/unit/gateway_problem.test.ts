import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HTTPException } from "hono/http-exception";
import { type ErrorCode, MillstreamError } from "../../src/core/errors.ts";
import { httpError, problemResponse, PROBLEMS, withStatus } from "../../src/gateway/problem.ts";

type Body = Record<string, unknown>;

async function bodyOf(response: Response): Promise<Body> {
  assert.equal(response.headers.get("content-type"), "application/problem+json");
  assert.equal(response.headers.get("x-content-type-options"), "nosniff");
  return await response.json() as Body;
}

describe("problem+json", () => {
  for (const code of Object.keys(PROBLEMS) as ErrorCode[]) {
    test(`${code} has a status of its own making and says what it is`, async () => {
      const response = problemResponse(new MillstreamError(code, "message"));
      const body = await bodyOf(response);
      assert.ok(response.status >= 400 && response.status <= 599);
      assert.equal(body.status, response.status);
      assert.equal(body.code, code);
      assert.equal(body.type, `urn:millstream:problem:${code}`);
      assert.equal(typeof body.retryable, "boolean");
      assert.ok(body.title && body.detail);
      assert.equal(response.status === 503, response.headers.has("retry-after") && response.status !== 409);
    });
  }

  test("details become members, and cannot replace the standard ones", async () => {
    const details = { expected: 1, current: 2, status: 200, code: "FAKE" };
    const body = await bodyOf(
      problemResponse(new MillstreamError("CONCURRENCY_CONFLICT", "late", { details })),
    );
    assert.deepEqual([body.expected, body.current, body.status, body.code], [
      1,
      2,
      409,
      "CONCURRENCY_CONFLICT",
    ]);
  });

  test("details that are not JSON are left out", async () => {
    const body = await bodyOf(
      problemResponse(new MillstreamError("REFUSED", "no", { details: { amount: 1n } })),
    );
    assert.equal(body.detail, "no");
    assert.ok(!("amount" in body));
  });

  for (
    const code of [
      "INTERNAL",
      "UNAVAILABLE",
      "REJECTED",
      "OVERLOADED",
      "COMMIT_INDETERMINATE",
      "CLOSED",
    ] as const
  ) {
    test(`${code} does not tell clients what broke`, async () => {
      const cause = new Error("secret cause");
      const error = new MillstreamError(code, "secret host 10.0.0.1", {
        cause,
        details: { sql: "secret sql" },
      });
      const text = await problemResponse(error).text();
      assert.ok(!text.includes("secret"), text);
    });
  }

  for (const thrown of [new TypeError("secret"), "secret", undefined, null, { secret: 1 }]) {
    test(`${String(thrown)}, thrown by something else, is a 500 without a word about it`, async () => {
      const response = problemResponse(thrown);
      assert.equal(response.status, 500);
      const text = JSON.stringify(await bodyOf(response));
      assert.ok(!text.includes("secret") && !text.includes("gateway_problem"), text);
    });
  }

  test("an HTTPException keeps its status and message", async () => {
    const body = await bodyOf(problemResponse(new HTTPException(401, { message: "Log in first" })));
    assert.deepEqual([body.status, body.detail], [401, "Log in first"]);
  });

  test("an HTTPException of 500 and above keeps its status, not its message", async () => {
    const response = problemResponse(new HTTPException(502, { message: "secret" }));
    assert.equal(response.status, 502);
    assert.ok(!(await response.text()).includes("secret"));
  });

  test("an HTTPException that brings its own response keeps it", async () => {
    const res = new Response("own", { status: 401, headers: { "www-authenticate": "Bearer" } });
    const response = problemResponse(new HTTPException(401, { res }));
    assert.equal(response.headers.get("www-authenticate"), "Bearer");
    assert.equal(await response.text(), "own");
  });

  test("an error can leave under another status with its code and details", async () => {
    const error = new MillstreamError("CONCURRENCY_CONFLICT", "late", { details: { current: 7 } });
    const response = problemResponse(withStatus(error, 412, { etag: '"7"' }));
    assert.equal(response.headers.get("etag"), '"7"');
    const body = await bodyOf(response);
    assert.deepEqual([response.status, body.status, body.code, body.current], [
      412,
      412,
      "CONCURRENCY_CONFLICT",
      7,
    ]);
  });

  test("too many requests says when to come back", async () => {
    const response = problemResponse(httpError(429, "TOO_MANY_STREAMS", "full"));
    assert.ok(Number(response.headers.get("retry-after")) > 0);
    assert.equal((await bodyOf(response)).retryable, true);
  });
});
