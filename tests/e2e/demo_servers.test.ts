import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { needs, service } from "../support/require.ts";
import { type PrivateServer, startPostgres, startRedis } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import { type Cli, type CliOptions, startDemo } from "./support/cli.ts";
import { follow, request } from "./support/http.ts";
import { type Acknowledged, postUntil } from "./support/load.ts";
import { CONFIRMED, placeOrder, settledOrder } from "./support/orders.ts";

const missing = [service("redis-server").skip, service("postgres-server").skip].find(Boolean);
const skip = missing ? needs(missing, false) : false;
const servers: PrivateServer[] = [];
let options: CliOptions;

before(async () => {
  if (skip) return;
  servers.push(...await Promise.all([startRedis(), startPostgres()]));
  const [redis, postgres] = servers;
  options = { redis: redis?.url ?? "", postgres: postgres?.url ?? "" };
});
after(async () => {
  await Promise.all(servers.map((server) => server.stop()));
});

describe("two demos that share a Redis and a Postgres", { skip }, () => {
  test("started at the same moment on empty servers, serve the same orders", async () => {
    await using pair = await startPair();
    const [one, two] = pair.demos;
    assert.match(one.process.output(), /with Postgres and Redis Streams$/m);

    const id = await placeOrder(one.address, { customerId: "c-3" });
    const seen = await request(`${two.address}/orders/${id}`);
    assert.equal(seen.status, 200, `what one took, the other shows: ${seen.text}`);
    const confirmed = await settledOrder(two.address, id);
    assert.deepEqual(confirmed.history, CONFIRMED);
    assert.equal(confirmed.customerName, "Edsger Dijkstra");

    const declined = await settledOrder(one.address, await placeOrder(two.address, { customerId: "c-5" }));
    assert.equal(declined.status, "cancelled");
    assert.equal(declined.history.at(-1), "order.cancelled");

    const url = `${two.address}/topics/order/events?from=start&key=${id}`;
    const events = await follow(url, (sent) => sent.length === CONFIRMED.length);
    assert.deepEqual(events.map(({ event }) => event).sort(), [...CONFIRMED].sort());
  });

  test("each order reaches its end within 30 s although one of the two is killed among them", async () => {
    await using pair = await startPair();
    const [killed, survivor] = pair.demos;
    const acknowledged: Acknowledged = { orders: [], messages: [] };
    const stop = new AbortController();
    const posting = postUntil(survivor.address, acknowledged, {
      prefix: "shared",
      clients: [4, 0],
      signal: stop.signal,
    });
    try {
      const taken = (count: number) =>
        Promise.race([posting, eventually(() => acknowledged.orders.length >= count, { withinMs: 20_000 })]);
      await taken(30);
      await killed.process.kill9();
      await taken(60);
    } finally {
      stop.abort();
      await posting;
    }
    const until = performance.now() + 30_000;
    for (const id of acknowledged.orders) {
      const { status, customerId, history } = await settledOrder(
        survivor.address,
        id,
        Math.max(1, until - performance.now()),
      );
      assert.equal(status, customerId === "c-5" ? "cancelled" : "confirmed", id);
      assert.deepEqual([...new Set(history)], history, `${id} has an event twice`);
    }
  });
});

async function startPair(): Promise<{ readonly demos: readonly [Cli, Cli] } & AsyncDisposable> {
  const started = await Promise.allSettled([startDemo(options), startDemo(options)]);
  const running = started.flatMap((result) => result.status === "fulfilled" ? [result.value] : []);
  const end = async () => void await Promise.all(running.map((demo) => demo.process.kill9()));
  const [one, two] = running;
  if (one && two) return { demos: [one, two], [Symbol.asyncDispose]: end };
  await end();
  throw started.find((result) => result.status === "rejected")?.reason;
}
