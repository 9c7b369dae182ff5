import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { parseEvent } from "../../src/core/codec.ts";
import { topic } from "../../src/core/definition.ts";
import { gateway } from "../../src/gateway/mod.ts";
import {
  cloudEvent,
  type EventClient,
  eventClient,
  problem,
  structured,
  until,
  within,
  type World,
  world,
} from "./gateway_fixture.ts";
import { stoppedClock } from "./gateway_clock.ts";

let shared: World;
const names = Array.from({ length: 20 }, (_, n) => `t${n}`);
before(async () => {
  shared = await world();
  shared.app.declare(...names.map((name) => topic(name)));
});
after(() => shared.app.close());

/** A topic no other test uses. */
function fresh(): string {
  return names.pop()!;
}

type App = ReturnType<typeof gateway>;

async function publish(
  app: App,
  name: string,
  from: number,
  to: number,
  extra: Record<string, unknown> = {},
): Promise<void> {
  for (let n = from; n <= to; n++) {
    const response = await app.request(
      `/topics/${name}`,
      structured(cloudEvent(`e${n}`, String(n), { type: "n", ...extra })),
    );
    assert.equal(response.status, 202, await response.text());
  }
}

async function numbers(client: EventClient, count: number): Promise<number[]> {
  return (await client.take(count)).map(({ data }) => (JSON.parse(data) as { data: number }).data);
}

function range(from: number, to: number): number[] {
  return Array.from({ length: to - from + 1 }, (_, n) => from + n);
}

describe("following a topic", () => {
  test("gives what is published from now on, each with its position as id and its type as name", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    await publish(app, name, 1, 2);
    const response = await app.request(`/topics/${name}/events`);
    assert.equal(response.headers.get("cache-control"), "no-store, no-transform");
    const client = eventClient(response);
    await publish(app, name, 3, 4);
    const events = await client.take(2);
    assert.deepEqual(events.map(({ event }) => event), ["n", "n"]);
    assert.deepEqual(events.map(({ data }) => (JSON.parse(data) as { id: string }).id), ["e3", "e4"]);
    assert.equal(new Set(events.map(({ id }) => id)).size, 2);
    await client.close();
  });

  test("gives what is still kept with from=start", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    await publish(app, name, 1, 150);
    const client = eventClient(
      await app.request(`/topics/${name}/events?from=start`),
    );
    assert.deepEqual(await numbers(client, 150), range(1, 150));
    await client.close();
  });

  test("gives the data byte for byte: spacing, 1.0, escapes, unicode, line breaks", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    const data =
      '{ "a" :\t1.0 , "b":"\\u0000\\ud83d\\ude00 ü\\u2028\u2028",\n "c": [ 1e2 ,-0.0, 12345678901234567890 ],"d":"\\/" }';
    const client = eventClient(await app.request(`/topics/${name}/events`));
    const response = await app.request(
      `/topics/${name}`,
      structured(cloudEvent("odd", data, { type: "odd" })),
    );
    assert.equal(response.status, 202, await response.text());
    const event = await client.next();
    assert.equal(parseEvent(event.data).dataText, data);
    await client.close();
  });

  test("filters by types and by key", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    await publish(app, name, 1, 1, { type: "a", partitionkey: "k1" });
    await publish(app, name, 2, 2, { type: "b", partitionkey: "k1" });
    await publish(app, name, 3, 3, { type: "c", partitionkey: "k2" });
    await publish(app, name, 4, 4, { type: "a" });
    const follow = async (query: string, count: number) => {
      const client = eventClient(
        await app.request(`/topics/${name}/events?from=start&${query}`),
      );
      const got = await numbers(client, count);
      await client.close();
      return got;
    };
    assert.deepEqual(await follow("types=a", 2), [1, 4]);
    assert.deepEqual(await follow("types=a,%20c", 3), [1, 3, 4]);
    assert.deepEqual(await follow("types=b&types=c", 2), [2, 3]);
    assert.deepEqual(await follow("key=k1", 2), [1, 2]);
    assert.deepEqual(await follow("types=a&key=k1", 1), [1]);
  });

  test("resumes after Last-Event-ID without a gap or a duplicate, though more was published in between", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    const url = `/topics/${name}/events`;
    const first = eventClient(await app.request(`${url}?from=start`));
    await publish(app, name, 1, 20);
    assert.deepEqual(await numbers(first, 7), range(1, 7));
    const headers = { "last-event-id": first.lastId! };
    await first.close();
    await publish(app, name, 21, 30);
    const second = eventClient(await app.request(url, { headers }));
    assert.deepEqual(await numbers(second, 23), range(8, 30));
    await publish(app, name, 31, 31);
    assert.deepEqual(await numbers(second, 1), [31]);
    await second.close();
    const third = eventClient(
      await app.request(`${url}?lastEventId=${second.lastId}`),
    );
    await publish(app, name, 32, 32);
    assert.deepEqual(await numbers(third, 1), [32]);
    await third.close();
  });

  test("resumes from where it began when it is cut off before the first event", async () => {
    const [app, name] = [gateway(shared.app), fresh()];
    await publish(app, name, 1, 3);
    const response = await app.request(`/topics/${name}/events`);
    const reader = response.body!.getReader();
    const opening = new TextDecoder().decode((await reader.read()).value);
    await reader.cancel();
    const id = /^id: (.*)$/m.exec(opening)?.[1];
    assert.ok(id, opening);
    await publish(app, name, 4, 5);
    const client = eventClient(
      await app.request(`/topics/${name}/events`, { headers: { "last-event-id": id } }),
    );
    assert.deepEqual(await numbers(client, 2), [4, 5]);
    await client.close();
  });

  for (const id of ["no such id", "now", "start", "a\u00fc", "x".repeat(129), "%00", "../../x"]) {
    test(`refuses to resume after ${JSON.stringify(id.slice(0, 20))}`, async () => {
      const url = `/topics/order/events?lastEventId=${encodeURIComponent(id)}`;
      await problem(await gateway(shared.app).request(url), 400, "INVALID_ARGUMENT");
    });
  }

  test("refuses a position that the broker cannot have given", async () => {
    const response = await gateway(shared.app).request("/topics/order/events", {
      headers: { "last-event-id": "forged_position" },
    });
    await problem(response, 400, "INVALID_ARGUMENT");
  });

  test("refuses what it does not understand", async () => {
    const app = gateway(shared.app);
    await problem(await app.request("/topics/order/events?from=yesterday"), 400, "INVALID_ARGUMENT");
    await problem(await app.request("/topics/order/events?key=a%0Ab"), 400, "INVALID_ARGUMENT");
    await problem(
      await app.request(`/topics/order/events?types=${"a,".repeat(101)}`),
      400,
      "INVALID_ARGUMENT",
    );
    await problem(await app.request("/topics/nowhere/events"), 404, "UNKNOWN_TOPIC");
    await problem(await app.request("/topics/order/events", { method: "POST" }), 405, "METHOD_NOT_ALLOWED");
  });

  test("a broker without a log says that it has none", async () => {
    const broker = Object.create(shared.app.broker, { log: { value: undefined } });
    const app = gateway(Object.create(shared.app, { broker: { value: broker } }));
    await problem(await app.request("/topics/order/events"), 501, "UNSUPPORTED");
  });
});

describe("the number of streams", () => {
  async function openStreams(app: App, count: number): Promise<EventClient[]> {
    const clients = [];
    for (let n = 0; n < count; n++) {
      clients.push(eventClient(await app.request("/topics/order/events")));
    }
    return clients;
  }

  test("is limited: the 201st is told to come back later, and may when one has gone", async () => {
    const app = gateway(shared.app);
    const clients = await openStreams(app, 200);
    const refused = await app.request("/topics/order/events");
    assert.ok(Number(refused.headers.get("retry-after")) > 0);
    await problem(refused, 429, "TOO_MANY_STREAMS");
    await clients.pop()!.close();
    clients.push(...await openStreams(app, 1));
    await problem(await app.request("/topics/order/events"), 429, "TOO_MANY_STREAMS");
    for (const client of clients) await client.close();
  });

  test("counts those that are being opened: of many at once no more than the limit get in", async () => {
    const app = gateway(shared.app, { maxStreams: 3 });
    const responses = await Promise.all(
      Array.from({ length: 10 }, () => app.request("/topics/order/events")),
    );
    assert.deepEqual(responses.map(({ status }) => status).sort(), [
      200,
      200,
      200,
      429,
      429,
      429,
      429,
      429,
      429,
      429,
    ]);
    for (const response of responses) await response.body?.cancel();
  });

  test("a client that aborts its request while it waits frees its place", async () => {
    const app = gateway(shared.app, { maxStreams: 1 });
    const abort = new AbortController();
    const request = new Request("http://localhost/topics/order/events", { signal: abort.signal });
    const client = eventClient(await app.fetch(request));
    const ended = client.ended();
    abort.abort();
    assert.equal(await ended, true);
    await (await openStreams(app, 1))[0]!.close();
  });

  test("a request that fails takes no place", async () => {
    const app = gateway(shared.app, { maxStreams: 1 });
    for (let n = 0; n < 3; n++) {
      await problem(
        await app.request("/topics/order/events?lastEventId=forged_position"),
        400,
        "INVALID_ARGUMENT",
      );
      const head = await app.request("/topics/order/events", { method: "HEAD" });
      assert.equal(head.headers.get("content-type"), "text/event-stream; charset=utf-8");
    }
    await (await openStreams(app, 1))[0]!.close();
  });

  test("a client that stalls is closed, frees its place and leaves no timer behind", async () => {
    const clock = stoppedClock();
    const app = gateway(shared.app, { maxStreams: 1, clock, stallMs: 10_000 });
    const response = await app.request("/topics/order/events?from=start");
    const reader = response.body!.getReader();
    await reader.read();
    clock.advance(9_999);
    await problem(await app.request("/topics/order/events"), 429, "TOO_MANY_STREAMS");
    clock.advance(1);
    const [next] = await openStreams(app, 1);
    assert.equal((await within(1_000, reader.read())).done, true);
    await next!.close();
    assert.equal(clock.timers, 0);
  });

  test("closing the gateway ends them all and takes no new ones", async () => {
    const closing = new AbortController();
    const app = gateway(shared.app, { signal: closing.signal });
    const clients = await openStreams(app, 5);
    const ended = Promise.all(clients.map((client) => client.ended()));
    closing.abort();
    assert.deepEqual(await within(1_000, ended), [true, true, true, true, true]);
    await problem(await app.request("/topics/order/events"), 503, "CLOSED");
  });

  test("closing the application ends them; they leave nothing behind", async () => {
    const { app } = await world();
    const api = gateway(app);
    const client = eventClient(await api.request("/topics/order/events"));
    const ended = client.ended();
    await app.close();
    assert.equal(await within(5_000, ended), true);
    await until(async () => (await api.request("/topics/order/events")).status === 503, "closed");
  });
});
