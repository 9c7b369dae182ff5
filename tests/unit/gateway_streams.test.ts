import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { gateway } from "../../src/gateway/mod.ts";
import { body, cloudEvent, problem, structured, type World, world } from "./gateway_fixture.ts";

let shared: World;
before(async () => {
  shared = await world();
});
after(() => shared.app.close());

const ODD = '{ "orderId" :\t"ü\\u0000" , "total":1.0 }';

function placed(id: string, data = '{"orderId":"o","total":1}', extra: Record<string, unknown> = {}): string {
  return cloudEvent(id, data, extra);
}

function append(stream: string, event: string, condition: Record<string, string>) {
  return gateway(shared.app).request(
    `/streams/${encodeURIComponent(stream)}`,
    structured(event, condition),
  );
}

function batch(stream: string, events: readonly string[], condition: Record<string, string>) {
  const headers = { "content-type": "application/cloudevents-batch+json", ...condition };
  return gateway(shared.app).request(`/streams/${stream}`, {
    method: "POST",
    body: `[${events.join(",")}]`,
    headers,
  });
}

interface Page {
  readonly stream: string;
  readonly version: number;
  readonly next: number | null;
  readonly events: ReadonlyArray<
    {
      id: string;
      streamversion: number;
      position: string;
      stream: string;
      data: unknown;
    }
  >;
}

async function read(path: string): Promise<Page> {
  return await body<Page>(await gateway(shared.app).request(path), 200);
}

const NONE = { "if-none-match": "*" };

describe("appending", () => {
  test("creates a stream with If-None-Match: * and extends it with If-Match", async () => {
    const first = await append("a-1", placed("a-1-1"), NONE);
    assert.equal(first.headers.get("etag"), '"1"');
    const created = await body(first, 201);
    assert.deepEqual([created.stream, created.version, created.ids], ["a-1", 1, ["a-1-1"]]);
    assert.equal(first.headers.get("x-position"), created.position);
    const second = await batch("a-1", [placed("a-1-2"), placed("a-1-3")], { "if-match": '"1"' });
    assert.equal((await body(second, 200)).version, 3);
    assert.equal(second.headers.get("etag"), '"3"');
    assert.equal((await body(await append("a-1", placed("a-1-4"), { "if-match": "*" }), 200)).version, 4);
  });

  test("fails with the current version if another writer was faster, and appends nothing", async () => {
    await body(await append("a-2", placed("a-2-1"), NONE), 201);
    const late = await append("a-2", placed("a-2-2"), { "if-match": '"0"' });
    assert.equal(late.headers.get("etag"), '"1"');
    const conflict = await problem(late, 412, "CONCURRENCY_CONFLICT");
    assert.deepEqual([conflict.expected, conflict.current], [0, 1]);
    await problem(await append("a-2", placed("a-2-3"), NONE), 412, "CONCURRENCY_CONFLICT");
    await problem(
      await append("a-none", placed("a-none-1"), { "if-match": "*" }),
      412,
      "CONCURRENCY_CONFLICT",
    );
    assert.equal((await read("/streams/a-2")).version, 1);
  });

  test("of two writers at once lets exactly one through", async () => {
    const writers = [1, 2, 3, 4, 5].map((n) => append("a-3", placed(`a-3-${n}`), NONE));
    const statuses = (await Promise.all(writers)).map(({ status }) => status);
    assert.deepEqual(statuses.sort(), [201, 412, 412, 412, 412]);
  });

  test("repeated with the same event ids appends nothing and answers the same", async () => {
    const first = await body(await append("a-4", placed("a-4-1"), NONE), 201);
    assert.deepEqual(await body(await append("a-4", placed("a-4-1"), NONE), 201), first);
    assert.equal((await read("/streams/a-4")).version, 1);
  });

  test("needs a condition", async () => {
    const needed = await problem(await append("a-5", placed("x"), {}), 428, "PRECONDITION_REQUIRED");
    assert.match(String(needed.detail), /If-Match/);
  });

  for (
    const condition of [
      { "if-match": "1" },
      { "if-match": 'W/"1"' },
      { "if-match": '"1", "2"' },
      { "if-match": '"-1"' },
      { "if-match": '"99999999999"' },
      { "if-match": '"x"' },
      { "if-match": "" },
      { "if-none-match": '"1"' },
      { "if-match": '"1"', "if-none-match": "*" },
    ]
  ) {
    test(`refuses the condition ${JSON.stringify(condition)}`, async () => {
      await problem(
        await append("a-6", placed("x"), condition as Record<string, string>),
        400,
        "INVALID_ARGUMENT",
      );
    });
  }

  test("refuses an event that does not match, is unknown, or is none, and an empty batch", async () => {
    await problem(await append("a-7", placed("x", '{"orderId":1}'), NONE), 422, "VALIDATION_FAILED");
    const unknown = await append("a-7", placed("x", "1", { type: "never.declared" }), NONE);
    assert.ok([404, 422].includes(unknown.status), await unknown.text());
    await problem(await append("a-7", '{"id":"x"}', NONE), 422, "VALIDATION_FAILED");
    await problem(await batch("a-7", [], NONE), 400, "INVALID_ARGUMENT");
    await problem(await gateway(shared.app).request("/streams/a-7"), 404, "NOT_FOUND");
  });
});

describe("reading a stream", () => {
  test("gives the events as they are stored, byte for byte, with their place", async () => {
    await body(await append("r-1", placed("r-1-1", ODD), NONE), 201);
    const response = await gateway(shared.app).request("/streams/r-1");
    assert.equal(response.headers.get("etag"), '"1"');
    const text = await response.text();
    assert.ok(text.includes(`"data":${ODD}`), text);
    const page = JSON.parse(text) as Page;
    assert.deepEqual([page.stream, page.version, page.next], ["r-1", 1, null]);
    const { id, streamversion, stream, position } = page.events[0]!;
    assert.deepEqual([id, streamversion, stream], ["r-1-1", 1, "r-1"]);
    assert.match(position, /^\d+$/);
  });

  test("an event cannot pretend to be elsewhere", async () => {
    await body(
      await append(
        "r-2",
        placed("r-2-1", undefined, { streamversion: "99", position: "1", stream: "other" }),
        NONE,
      ),
      201,
    );
    const { streamversion, stream } = (await read("/streams/r-2")).events[0]!;
    assert.deepEqual([streamversion, stream], [1, "r-2"]);
  });

  test("goes forwards and backwards, page by page, each event once", async () => {
    const ids = Array.from({ length: 150 }, (_, n) => `r-3-${n + 1}`);
    await body(await batch("r-3", ids.slice(0, 100).map((id) => placed(id)), NONE), 201);
    await body(await batch("r-3", ids.slice(100).map((id) => placed(id)), { "if-match": '"100"' }), 200);
    const all = async (direction: string) => {
      const got: string[] = [];
      for (
        let from: number | null = direction === "backwards" ? 150 : 1;
        from !== null;
      ) {
        const page: Page = await read(
          `/streams/r-3?direction=${direction}&limit=70&from=${from}`,
        );
        got.push(...page.events.map(({ id }) => id));
        from = page.next;
      }
      return got;
    };
    assert.deepEqual(await all("forwards"), ids);
    assert.deepEqual(await all("backwards"), [...ids].reverse());
    assert.equal((await read("/streams/r-3")).events.length, 100);
    assert.equal((await read("/streams/r-3?limit=1000")).events.length, 150);
    assert.deepEqual(
      (await read("/streams/r-3?direction=backwards&limit=1")).events.map(({ id }) => id),
      ["r-3-150"],
    );
    assert.deepEqual((await read("/streams/r-3?from=151")).events, []);
    assert.equal((await read("/streams/r-3?direction=backwards&from=999&limit=2")).events[0]!.id, "r-3-150");
  });

  test("shows nothing newer than the version it gives as ETag, though a writer is faster", async () => {
    await body(await append("r-4", placed("r-4-1"), NONE), 201);
    const events = shared.app.store.events;
    let raced = false;
    const racing = Object.create(events, {
      readStream: {
        value: async (stream: string, options: { backwards?: boolean }) => {
          const found = await events.readStream(stream, options);
          if (!raced) {
            await append("r-4", placed("r-4-2"), { "if-match": '"1"' }); // between the version and the events
          }
          raced = true;
          return found;
        },
      },
    });
    const store = Object.create(shared.app.store, { events: { value: racing } });
    const response = await gateway(
      Object.create(shared.app, { store: { value: store } }),
    ).request("/streams/r-4");
    assert.equal(response.headers.get("etag"), '"1"');
    assert.deepEqual((await body<Page>(response, 200)).events.map(({ id }) => id), ["r-4-1"]);
    assert.equal((await read("/streams/r-4")).version, 2);
  });

  test("a page of large events ends early and says where to read on", async () => {
    const large = placed("x", JSON.stringify({ orderId: "x".repeat(200_000), total: 1 }));
    for (let n = 0; n < 70; n += 5) {
      const events = Array.from(
        { length: 5 },
        (_, k) => large.replace('"id":"x"', `"id":"r-5-${n + k}"`),
      );
      const app = gateway(shared.app, { maxBodyBytes: 2_000_000 });
      const headers = {
        "content-type": "application/cloudevents-batch+json",
        ...(n === 0 ? NONE : { "if-match": `"${n}"` }),
      };
      const response = await app.request("/streams/r-5", {
        method: "POST",
        body: `[${events.join(",")}]`,
        headers,
      });
      assert.ok(response.ok, await response.text());
    }
    const page = await read("/streams/r-5?limit=1000");
    assert.equal(page.next, page.events.length + 1);
    assert.ok(page.events.length < 70);
  });

  test("refuses what it does not understand", async () => {
    const app = gateway(shared.app);
    await problem(await app.request("/streams/never"), 404, "NOT_FOUND");
    for (
      const query of [
        "from=0",
        "from=x",
        "limit=0",
        "limit=1001",
        "limit=1&limit=2",
        "direction=up",
        "from=1e3",
      ]
    ) {
      await problem(
        await app.request(`/streams/r-1?${query}`),
        400,
        "INVALID_ARGUMENT",
      );
    }
  });
});

describe("reading all events", () => {
  interface All {
    readonly next: string;
    readonly events: ReadonlyArray<
      { id: string; stream: string; type: string; position: string }
    >;
  }
  const readAll = async (query: string) =>
    await body<All>(await gateway(shared.app).request(`/events?${query}`), 200);

  test("gives every event once, in order, page by page", async () => {
    await body(
      await batch(
        "e-1",
        Array.from({ length: 100 }, (_, n) => placed(`e-1-${n}`)),
        NONE,
      ),
      201,
    );
    const seen: string[] = [];
    let after = "0";
    for (;;) {
      const page = await readAll(`limit=33&after=${after}`);
      assert.ok(page.events.length <= 33);
      if (page.events.length === 0) break;
      seen.push(...page.events.map(({ position }) => position));
      after = page.next;
    }
    assert.equal(new Set(seen).size, seen.length);
    assert.deepEqual(seen, [...seen].sort((a, b) => Number(BigInt(a) - BigInt(b))));
    const [before, ...rest] = seen.slice(-101);
    const page = await readAll(`limit=1000&after=${before}`);
    assert.deepEqual(page.events.map(({ id }) => id), Array.from({ length: 100 }, (_, n) => `e-1-${n}`));
    assert.deepEqual(page.events.map(({ position }) => position), rest);
  });

  test("keeps the bytes of the data", async () => {
    await body(await append("e-2", placed("e-2-1", ODD), NONE), 201);
    const text = await (await gateway(shared.app).request("/events?limit=1000"))
      .text();
    assert.ok(text.includes(`"data":${ODD}`));
  });

  test("filters by type, by correlation id and by time", async () => {
    await body(
      await append(
        "e-3",
        placed("e-3-1", '{"orderId":"o"}', { type: "order.cancelled", correlationid: "e-3" }),
        NONE,
      ),
      201,
    );
    assert.ok((await readAll("type=order.cancelled")).events.every(({ type }) => type === "order.cancelled"));
    assert.ok((await readAll("type=order.cancelled")).events.length > 0);
    assert.deepEqual((await readAll("correlationid=e-3")).events.map(({ id }) => id), ["e-3-1"]);
    assert.deepEqual((await readAll("since=2100-01-01T00:00:00Z")).events, []);
    assert.ok(
      (await readAll(`since=${Date.now() - 60_000}`)).events.length > 0,
    );
  });

  test("refuses what it does not understand", async () => {
    const app = gateway(shared.app);
    for (
      const query of [
        "after=x",
        "after=-1",
        "limit=0",
        "limit=1001",
        "since=yesterday",
        "since=2026-13-01",
        "type=a%0Ab",
      ]
    ) {
      await problem(
        await app.request(`/events?${query}`),
        400,
        "INVALID_ARGUMENT",
      );
    }
  });
});
