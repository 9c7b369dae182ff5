import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import * as v from "valibot";
import type { Hono } from "hono";
import { millstream } from "../../src/app/millstream.ts";
import type { Millstream } from "../../src/app/application.ts";
import { refuse } from "../../src/core/errors.ts";
import { gateway } from "../../src/gateway/mod.ts";
import { saga } from "../../src/sagas/definition.ts";
import { body, problem } from "./gateway_fixture.ts";

const Data = v.object({ order: v.string() });

let app: Millstream;
let http: Hono;
const asked: string[] = [];

before(async () => {
  app = millstream({});
  const Working = saga("working", Data).step("a", { run: () => {} });
  const Stuck = saga("stuck", Data, { deadlineMs: 0 })
    .step("a", {
      run: () => {},
      undoRetry: { attempts: 1 },
      undo: () => {
        throw new Error("cannot");
      },
    })
    .sleep("wait", 3_600_000);
  const Refused = saga("refused", Data).step("a", {
    run: () => {
      throw refuse("NO");
    },
  });
  await app.use(Working).use(Stuck).use(Refused).start();
  await app.startSaga(Working, "w-1", { order: "1" });
  await app.startSaga(Refused, "r-1", { order: "1" });
  for (const id of ["s-1", "s-2", "s/3"]) await app.startSaga(Stuck, id, { order: id });
  await Promise.all([app.sagas.settled("w-1"), app.sagas.settled("r-1")]);
  for (const id of ["s-1", "s-2", "s/3"]) {
    while ((await app.sagas.get(id)).status !== "waiting") await new Promise((done) => setTimeout(done, 5));
  }
  http = gateway(app, {
    authorize(request, { action, target }) {
      asked.push(`${action} ${target}`.trim());
      return request.headers.get("x-role") === "admin";
    },
  });
});
after(() => app.close());

const admin = { headers: { "x-role": "admin" } };
const post = { ...admin, method: "POST" };

interface Page {
  readonly next?: string;
  readonly sagas: readonly { readonly id: string; readonly status: string }[];
}

async function ids(search: string): Promise<string[]> {
  const page = await body(await http.request(`/sagas${search}`, admin), 200) as Page;
  return page.sagas.map(({ id }) => id);
}

describe("sagas", () => {
  test("are not there without an authorizer, and not for everybody with one", async () => {
    const open = gateway(app);
    await problem(await open.request("/sagas"), 404, "ROUTE_NOT_FOUND");
    await problem(await open.request("/sagas/w-1/retry", { method: "POST" }), 404, "ROUTE_NOT_FOUND");
    await problem(await http.request("/sagas"), 403, "FORBIDDEN");
    await problem(await http.request("/sagas/w-1/skip", { method: "POST" }), 403, "FORBIDDEN");
    assert.deepEqual(asked.slice(-2), ["sagas.read", "sagas.operate w-1"]);
  });

  test("are listed by name, status, age and being stuck, page by page", async () => {
    assert.deepEqual(await ids(""), ["r-1", "s-1", "s-2", "s/3", "w-1"]);
    assert.deepEqual(await ids("?saga=stuck"), ["s-1", "s-2", "s/3"]);
    assert.deepEqual(await ids("?status=compensated"), ["r-1"]);
    assert.deepEqual(await ids("?stuck=true"), ["s-1", "s-2", "s/3"]);
    assert.deepEqual(await ids("?minagems=3600000"), []);
    const page = await body(await http.request("/sagas?limit=2", admin), 200) as Page;
    assert.deepEqual([page.sagas.length, page.next], [2, "s-1"]);
    assert.deepEqual(await ids(`?limit=2&after=${page.next}`), ["s-2", "s/3"]);
  });

  test("show one instance with its timeline, whatever its id", async () => {
    const one = await body(await http.request("/sagas/r-1", admin), 200) as Record<string, unknown>;
    assert.deepEqual([one.saga, one.status, one.stuck], ["refused", "compensated", false]);
    const [entry] = one.timeline as Array<Record<string, unknown>>;
    assert.deepEqual([entry!.step, entry!.action, entry!.attempt, entry!.error], ["a", "run", 1, "NO"]);
    const other = await body(await http.request("/sagas/s%2F3", admin), 200) as { id: string };
    assert.equal(other.id, "s/3");
    await problem(await http.request("/sagas/none", admin), 404, "NOT_FOUND");
  });

  test("are operated: skipped, cancelled, retried, declared completed; what makes no sense is refused", async () => {
    const skipped = await body(await http.request("/sagas/s-1/skip?step=wait", post), 200) as { id: string };
    assert.equal(skipped.id, "s-1");
    assert.equal((await app.sagas.settled("s-1", { pollMs: 5 })).status, "completed");
    await problem(await http.request("/sagas/s-1/cancel", post), 409, "REFUSED");
    await body(await http.request("/sagas/s-2/cancel?reason=changed%20my%20mind", post), 200);
    const failed = await app.sagas.settled("s-2", { pollMs: 5 });
    assert.deepEqual([failed.status, failed.error], ["compensation_failed", "changed my mind"]);
    await body(await http.request("/sagas/s-2/retry", post), 200);
    assert.equal((await app.sagas.settled("s-2", { pollMs: 5 })).status, "compensation_failed");
    const done = await body(await http.request("/sagas/s-2/force-complete?reason=by%20hand", post), 200);
    const { status, timeline } = done as {
      status: string;
      timeline: Array<{ action: string; error?: string }>;
    };
    assert.deepEqual([status, timeline.at(-1)?.action, timeline.at(-1)?.error], [
      "completed",
      "force-complete",
      "by hand",
    ]);
    await problem(await http.request("/sagas/none/retry", post), 404, "NOT_FOUND");
  });

  test("refuse bad parameters by name", async () => {
    for (
      const search of ["status=done", "stuck=yes", "limit=0", "limit=501", "minagems=-1", "saga=a&saga=b"]
    ) {
      await problem(await http.request(`/sagas?${search}`, admin), 400, "INVALID_ARGUMENT");
    }
    await problem(await http.request(`/sagas/${"x".repeat(300)}`, admin), 400, "INVALID_ARGUMENT");
    await problem(await http.request("/sagas/s-1/retry", admin), 405, "METHOD_NOT_ALLOWED");
  });

  test("past their deadline are a warning of readiness, and it stays ready", async () => {
    const { ready, loops } = await app.health();
    const warning = loops.find(({ name }) => name === "sagas")?.warning;
    assert.equal(ready, true);
    assert.ok(warning === undefined || /past their deadline/.test(warning));
  });
});
