import assert from "node:assert/strict";
import type { Server } from "node:http";
import { connect, type Socket } from "node:net";
import { after, before, describe, test } from "node:test";
import { serve } from "@hono/node-server";
import { topic } from "../../src/core/definition.ts";
import { gateway } from "../../src/gateway/mod.ts";
import {
  body,
  cloudEvent,
  type EventClient,
  eventClient,
  json,
  structured,
  until,
  within,
  type World,
  world,
} from "../unit/gateway_fixture.ts";

let shared: World;
let port: number;
let stop: () => Promise<void>;
const closing = new AbortController();
const MAX_STREAMS = 2;

before(async () => {
  shared = await world();
  shared.app.declare(topic("stall"), topic("leave"), topic("resume"));
  const api = gateway(shared.app, {
    maxStreams: MAX_STREAMS,
    stallMs: 1_000,
    heartbeatMs: 50,
    signal: closing.signal,
  });
  ({ port, stop } = await startServer(api.fetch));
});
after(async () => {
  closing.abort();
  await within(5_000, stop());
  await shared.app.close();
});

type Fetch = (request: Request) => Response | Promise<Response>;

interface Running {
  readonly port: number;
  readonly stop: () => Promise<void>;
}

interface Runtimes {
  readonly Bun?: {
    serve(options: { fetch: Fetch; port: number; hostname: string; idleTimeout: number }): {
      readonly port: number;
      stop(force: boolean): Promise<void>;
    };
  };
  readonly Deno?: {
    serve(options: { port: number; hostname: string; onListen: () => void }, fetch: Fetch): {
      readonly addr: { readonly port: number };
      shutdown(): Promise<void>;
    };
  };
}

/** The runtime's own server. */
async function startServer(fetch: Fetch): Promise<Running> {
  const hostname = "127.0.0.1";
  const { Bun, Deno } = globalThis as Runtimes;
  if (Bun) {
    const server = Bun.serve({ fetch, hostname, port: 0, idleTimeout: 0 });
    return { port: server.port, stop: () => server.stop(true) };
  }
  if (Deno) {
    const server = Deno.serve({ hostname, port: 0, onListen: () => {} }, fetch);
    return { port: server.addr.port, stop: () => server.shutdown() };
  }
  return await new Promise((resolve) => {
    const server = serve({ fetch, port: 0, hostname }, ({ port }) => {
      resolve({
        port,
        stop: () =>
          new Promise((done) => {
            server.close(() => done());
            (server as Server).closeAllConnections(); // fetch keeps its own open
          }),
      });
    });
  });
}

const url = (path: string) => `http://127.0.0.1:${port}${path}`;

interface RawClient {
  readonly socket: Socket;
  received(): string;
}

/** A client below HTTP, which can stop reading and send what no client library would. */
async function rawClient(request: string): Promise<RawClient> {
  let received = "";
  const socket = connect({ port, host: "127.0.0.1" });
  socket.on("error", () => {});
  socket.on("data", (data) => received += data.toString());
  await new Promise((resolve) => socket.once("connect", resolve));
  socket.write(request);
  return { socket, received: () => received };
}

/** A raw client that follows a topic, as soon as there is a place. */
async function rawFollow(name: string): Promise<RawClient> {
  for (;;) {
    const client = await rawClient(`GET /topics/${name}/events HTTP/1.1\r\nHost: x\r\n\r\n`);
    await until(() => /retry:|TOO_MANY_STREAMS/.test(client.received()), "a response");
    if (client.received().includes("retry:")) return client;
    client.socket.destroy();
  }
}

async function publish(name: string, id: string, data: string): Promise<void> {
  const response = await fetch(
    url(`/topics/${name}`),
    structured(cloudEvent(id, data, { type: "t" })),
  );
  assert.equal(response.status, 202, await response.text());
}

/** Follows a topic as soon as there is a place. */
async function follow(name: string, headers: Record<string, string> = {}): Promise<EventClient> {
  let response: Response | undefined;
  await until(async () => {
    response = await fetch(url(`/topics/${name}/events`), { headers });
    if (response.status === 200) return true;
    await response.body?.cancel();
    return false;
  }, `a place to follow ${name}`);
  return eventClient(response!);
}

/** Passes once all places are free. */
async function takeAllPlaces(): Promise<void> {
  const clients = [];
  while (clients.length < MAX_STREAMS) clients.push(await follow("order"));
  for (const client of clients) await client.close();
}

describe("over a real connection", () => {
  test("a chunked body that is too large is answered with 413, and the server goes on", async () => {
    const chunk = `10000\r\n${" ".repeat(65_536)}\r\n`;
    const head =
      "POST /topics/order HTTP/1.1\r\nHost: x\r\nContent-Type: application/cloudevents-batch+json\r\n" +
      "Transfer-Encoding: chunked\r\n\r\n";
    const { socket, received } = await rawClient(head + chunk.repeat(20) + "0\r\n\r\n");
    await until(() => received().includes("PAYLOAD_TOO_LARGE"), "a response");
    assert.match(received(), /^HTTP\/1.1 413 /);
    socket.destroy();
    await body(await fetch(url("/health/live")), 200);
  });

  test("a client that loses its connection resumes without a gap or a duplicate", async () => {
    const first = await follow("resume");
    for (let n = 1; n <= 5; n++) await publish("resume", `r${n}`, String(n));
    const seen = (await first.take(3)).map(({ data }) => (JSON.parse(data) as { id: string }).id);
    await first.close();
    for (let n = 6; n <= 8; n++) await publish("resume", `r${n}`, String(n));
    const second = await follow("resume", { "last-event-id": first.lastId! });
    seen.push(...(await second.take(5)).map(({ data }) => (JSON.parse(data) as { id: string }).id));
    assert.deepEqual(seen, ["r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8"]);
    await second.close();
  });

  test("a client that breaks off while it waits frees its place", async () => {
    const clients = [await rawFollow("leave"), await rawFollow("leave")];
    await until(() => clients.every((client) => client.received().includes(": heartbeat")), "both follow");
    assert.equal((await fetch(url("/topics/leave/events"))).status, 429);
    for (const { socket } of clients) socket.destroy();
    await takeAllPlaces();
  });

  test("a client that stops reading is given up, and its neighbour gets everything meanwhile", async () => {
    const stalled = await rawFollow("stall");
    stalled.socket.pause();
    const reading = await follow("stall");
    const data = JSON.stringify("x".repeat(200_000));
    const count = 70; // 14 MB: more than any socket buffers hold
    const published = (async () => {
      for (let n = 1; n <= count; n++) await publish("stall", `s${n}`, data);
    })();
    const ids = (await within(10_000, reading.take(count))).map(({ data }) =>
      (JSON.parse(data) as { id: string }).id
    );
    assert.deepEqual(ids, Array.from({ length: count }, (_, n) => `s${n + 1}`));
    await published;
    await reading.close();
    await takeAllPlaces();
    stalled.socket.destroy();
  });

  test("a command, a query that has seen it, and the stream it wrote", async () => {
    const placed = await fetch(url("/commands/order.place"), json({ orderId: "http-1", total: 1 }));
    const { stream } = await body<{ stream: string }>(placed, 200);
    const headers = { "x-after": placed.headers.get("x-position")! };
    const ids = await body<string[]>(await fetch(url("/queries/order.ids"), { headers }), 200);
    assert.ok(ids.includes("http-1"));
    const read = await fetch(url(`/streams/${encodeURIComponent(stream)}`));
    assert.equal(read.headers.get("etag"), '"1"');
    await body(read, 200);
  });
});
