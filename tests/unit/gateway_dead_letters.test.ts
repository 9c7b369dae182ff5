import assert from "node:assert/strict";
import { test } from "node:test";
import type { Hono } from "hono";
import * as v from "valibot";
import type { Millstream } from "../../src/app/application.ts";
import { millstream } from "../../src/app/millstream.ts";
import { event } from "../../src/core/definition.ts";
import { gateway } from "../../src/gateway/mod.ts";
import { eventually } from "../support/wait.ts";

const Ping = event("ping.sent", v.object({ n: v.number() }));

interface World {
  readonly app: Millstream;
  readonly http: Hono;
  repair(): void;
  readonly handled: number[];
}

/** A gateway in front of `count` dead letters. */
async function world(count: number, mayOperate = true): Promise<World> {
  const app = millstream();
  let isBroken = true;
  const handled: number[] = [];
  app.on(Ping, { group: "g", retry: { attempts: 1 } }, ({ data }) => {
    if (isBroken) throw Object.assign(new Error(`secret ${data.n}`), { name: data.n < 2 ? "Low" : "High" });
    handled.push(data.n);
  });
  await app.start();
  for (let n = 0; n < count; n++) await app.publish(Ping, { n });
  await eventually(async () => await app.deadLetters().count() === count);
  await new Promise((resolve) => setTimeout(resolve, 5)); // the next millisecond: what fails in this one is left out
  const authorize = (_: Request, { action }: { action: string }): boolean =>
    mayOperate || !action.endsWith(".operate");
  return { app, http: gateway(app, { authorize }), repair: () => isBroken = false, handled };
}

async function call(http: Hono, method: string, path: string): Promise<[status: number, body: Body]> {
  const response = await http.request(path, { method });
  return [response.status, await response.json() as Body];
}

interface Body {
  readonly code?: string;
  readonly done?: number;
  readonly next?: string;
  readonly deadLetters?: readonly {
    readonly deadLetterId: string;
    readonly failure: { readonly error: string };
  }[];
  readonly groups?: readonly Record<string, unknown>[];
  readonly body?: string;
  readonly id?: string;
}

test("dead letters and groups are not there without an authorizer", async () => {
  const app = millstream();
  for (const path of ["/dead-letters", "/dead-letters/d1", "/groups"]) {
    assert.equal((await gateway(app).request(path)).status, 404);
  }
  assert.equal((await gateway(app).request("/dead-letters", { method: "DELETE" })).status, 404);
  await app.close();
});

test("an operator lists dead letters page by page, filtered, and sees one with its bytes", async () => {
  const { app, http } = await world(4);
  const [status, first] = await call(http, "GET", "/dead-letters?limit=3");
  assert.deepEqual([status, first.deadLetters?.length, "body" in first.deadLetters![0]!], [200, 3, false]);
  const [, second] = await call(http, "GET", `/dead-letters?limit=3&after=${first.next}`);
  assert.deepEqual([second.deadLetters?.length, second.next], [1, undefined]);
  const [, low] = await call(http, "GET", "/dead-letters?error=Low&group=g&topic=ping&type=ping.sent");
  assert.deepEqual(low.deadLetters?.map(({ failure }) => failure.error), ["Low", "Low"]);
  const [, none] = await call(http, "GET", "/dead-letters?before=2001-01-01T00:00:00Z");
  assert.deepEqual(none.deadLetters, []);
  const [, whole] = await call(http, "GET", `/dead-letters/${first.deadLetters![0]!.deadLetterId}`);
  assert.equal(JSON.parse(whole.body!).data.n, 0);
  await app.close();
});

test("one is redriven or removed by its id, and is not there afterwards", async () => {
  const { app, http, repair, handled } = await world(2);
  repair();
  const [, { deadLetters }] = await call(http, "GET", "/dead-letters");
  const [first, second] = deadLetters!.map(({ deadLetterId }) => deadLetterId);
  assert.deepEqual(await call(http, "POST", `/dead-letters/${first}/redrive`), [200, { done: 1, gone: 0 }]);
  assert.deepEqual(await call(http, "DELETE", `/dead-letters/${second}`), [200, { done: 1, gone: 0 }]);
  for (const [method, path] of [["POST", `${first}/redrive`], ["DELETE", second], ["GET", first]] as const) {
    const [status, { code }] = await call(http, method, `/dead-letters/${path}`);
    assert.deepEqual([status, code], [404, "NOT_FOUND"]);
  }
  await eventually(() => handled.length === 1);
  await app.close();
});

test("all that match are redriven, in parts and dry where asked to", async () => {
  const { app, http, repair, handled } = await world(5);
  repair();
  assert.equal((await call(http, "POST", "/dead-letters/redrive?error=High&dryrun=true"))[1].done, 3);
  const [, { done, next }] = await call(http, "POST", "/dead-letters/redrive?max=2&rate=1000");
  assert.deepEqual([done, typeof next], [2, "string"]);
  assert.equal((await call(http, "POST", `/dead-letters/redrive?after=${next}`))[1].done, 3);
  await eventually(() => handled.length === 5);
  assert.equal(await app.deadLetters().count(), 0);
  await app.close();
});

test("removing all takes saying so", async () => {
  const { app, http } = await world(3);
  const [status, { code }] = await call(http, "DELETE", "/dead-letters");
  assert.deepEqual([status, code], [400, "INVALID_ARGUMENT"]);
  assert.equal((await call(http, "DELETE", "/dead-letters?error=High"))[1].done, 1);
  assert.equal((await call(http, "DELETE", "/dead-letters?olderthanms=3600000"))[1].done, 0);
  assert.equal((await call(http, "DELETE", "/dead-letters?all=true"))[1].done, 2);
  await app.close();
});

test("groups are listed with their counts", async () => {
  const { app, http } = await world(2);
  const [, { groups }] = await call(http, "GET", "/groups?topic=ping");
  assert.deepEqual(groups, [{ topic: "ping", group: "g", ready: 0, inFlight: 0, delayed: 0, dead: 2 }]);
  assert.deepEqual((await call(http, "GET", "/groups?topic=other"))[1].groups, []);
  await app.close();
});

test("who may look may not operate", async () => {
  const { app, http } = await world(1, false);
  const [, { deadLetters }] = await call(http, "GET", "/dead-letters");
  const id = deadLetters![0]!.deadLetterId;
  for (
    const [method, path] of [
      ["POST", `/${id}/redrive`],
      ["POST", "/redrive"],
      ["DELETE", `/${id}`],
      ["DELETE", "?all=true"],
    ] as const
  ) {
    assert.equal((await call(http, method, `/dead-letters${path}`))[0], 403);
  }
  assert.equal(await app.deadLetters().count(), 1);
  await app.close();
});

for (
  const [method, path] of [
    ["GET", "/dead-letters?limit=0"],
    ["GET", "/dead-letters?before=yesterday"],
    ["GET", "/dead-letters?topic=a&topic=b"],
    ["GET", "/dead-letters?after=%00"],
    ["GET", "/dead-letters?after=nope"],
    ["POST", "/dead-letters/redrive?max=0"],
    ["POST", "/dead-letters/redrive?rate=fast"],
    ["POST", "/dead-letters/redrive?dryrun=maybe"],
    ["DELETE", "/dead-letters?olderthanms=-1"],
  ] as const
) {
  test(`${method} ${path} is refused`, async () => {
    const { app, http } = await world(0);
    const [status, { code }] = await call(http, method, path);
    assert.deepEqual([status, code], [400, "INVALID_ARGUMENT"]);
    await app.close();
  });
}
