import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { eventually, within } from "../support/wait.ts";
import { type Cli, runCli, START_MS, startDemo, temporaryFolder, toldToEnd } from "./support/cli.ts";
import { follow, request } from "./support/http.ts";
import { assertProblem, CONFIRMED, order, placeOrder, settledOrder } from "./support/orders.ts";

const data = temporaryFolder();
let demo: Cli;
const at = (path: string): string => `${demo.address}${path}`;

before(async () => {
  demo = await startDemo({ data });
});
after(() => demo?.process.kill9());

describe("an order on the embedded default", () => {
  test("is confirmed, with names, items, total and what happened to it", async () => {
    const accepted = await request(at("/orders"), {
      body: order({
        orderId: "happy",
        customerId: "c-2",
        items: [{ productId: "p-2", quantity: 3, price: 0.1 }, {
          productId: "p-12",
          quantity: 1,
          price: 1_200.55,
        }],
      }),
    });
    assert.equal(accepted.status, 202, accepted.text);
    assert.equal(accepted.headers.get("location"), "/orders/happy");
    assert.equal(accepted.headers.get("x-position"), accepted.body.position);
    assert.equal(accepted.body.message, "Order creation initiated");

    const { createdAt, updatedAt, ...shown } = await settledOrder(demo.address, "happy");
    assert.deepEqual(shown, {
      id: "happy",
      customerId: "c-2",
      customerName: "Grace Hopper",
      status: "confirmed",
      items: [
        { productId: "p-2", productName: "Water wheel", quantity: 3, price: 0.1 },
        { productId: "p-12", productName: "Rope, 20 m", quantity: 1, price: 1_200.55 },
      ],
      total: 1_200.85,
      history: CONFIRMED,
    });
    assert.ok(Date.parse(String(createdAt)) <= Date.parse(String(updatedAt)), `${createdAt} ${updatedAt}`);
  });

  test("is cancelled after what was reserved is released, if the card is declined", async () => {
    const shown = await settledOrder(demo.address, await placeOrder(demo.address, { customerId: "c-5" }));
    assert.equal(shown.status, "cancelled");
    assert.equal(shown.cancelReason, "it could not be fulfilled");
    assert.deepEqual(shown.history, [
      "order.created",
      "inventory.reserved",
      "inventory.released",
      "order.cancelled",
    ]);
  });

  test("is cancelled with nothing reserved or paid, if a product is sold out", async () => {
    const items = [{ productId: "p-1", quantity: 1, price: 1 }, { productId: "p-20", quantity: 1, price: 1 }];
    const shown = await settledOrder(demo.address, await placeOrder(demo.address, { items }));
    assert.equal(shown.status, "cancelled");
    assert.deepEqual(shown.history, ["order.created", "order.cancelled"]);
  });

  test("is confirmed at a total of 10,000 and cancelled one cent above", async () => {
    const most = [{ productId: "p-1", quantity: 2, price: 5_000 }];
    const more = [...most, { productId: "p-2", quantity: 1, price: 0.01 }];
    const ids = await Promise.all([most, more].map((items) => placeOrder(demo.address, { items })));
    const shown = await Promise.all(ids.map((id) => settledOrder(demo.address, id)));
    assert.deepEqual(shown.map(({ total, status }) => [total, status]), [
      [10_000, "confirmed"],
      [10_000.01, "cancelled"],
    ]);
    assert.deepEqual(shown[1]?.history.includes("inventory.released"), true);
  });

  test("is refused with what is wrong, if there is no such customer or product", async () => {
    const stranger = await request(at("/orders"), { body: order({ customerId: "c-6" }) });
    assertProblem(stranger, 422, "VALIDATION_FAILED");
    assert.match(stranger.text, /unknown customer, expected c-1 to c-5/);

    const items = [{ productId: "p-21", quantity: 1, price: 1 }];
    const unknown = await request(at("/orders"), { body: order({ items }) });
    assertProblem(unknown, 422, "VALIDATION_FAILED");
    assert.match(unknown.text, /unknown product, expected p-1 to p-20/);

    assertProblem(await request(at("/orders"), { body: order({ items: [] }) }), 422, "VALIDATION_FAILED");
    assertProblem(await request(at("/orders/nobody-ordered-this")), 404, "NOT_FOUND");
  });

  test("is seen by whoever asks right after the 202, without saying after what", async () => {
    for (let round = 0; round < 10; round++) {
      const id = await placeOrder(demo.address);
      const seen = await request(at(`/orders/${id}`));
      assert.equal(seen.status, 200, `round ${round}: ${seen.text}`);
      assert.equal(seen.body.history[0], "order.created");
    }
  });

  test("exists once for one idempotency key, and its repetition is answered alike", async () => {
    const headers = { "idempotency-key": "one-order-please" };
    const once = () => request(at("/orders"), { body: order(), headers });
    const first = await once();
    const second = await once();
    assert.deepEqual([first.status, second.status], [202, 202], second.text);
    assert.equal(second.body.orderId, first.body.orderId);
    assert.equal(second.body.position, first.body.position);

    const other = await request(at("/orders"), { body: order({ customerId: "c-3" }), headers });
    assertProblem(other, 422, "IDEMPOTENCY_KEY_REUSED");
  });

  test("exists once for one order id: the second is refused", async () => {
    await placeOrder(demo.address, { orderId: "twin" });
    assertProblem(await request(at("/orders"), { body: order({ orderId: "twin" }) }), 409, "REFUSED");
  });
});

describe("commands and queries of the demo", () => {
  test("create, confirm and cancel an order; a query after the position sees each", async () => {
    const items = order().items;
    const send = (type: string, body: unknown) => request(at(`/commands/${type}`), { body });
    const seen = async (position: string) => {
      const url = at("/queries/OrderById?orderId=by-command");
      const answer = await request(url, { headers: { "x-after": position } });
      assert.equal(answer.status, 200, answer.text);
      return answer.body;
    };

    const created = await send("CreateOrder", { orderId: "by-command", customerId: "c-4", items });
    assert.equal(created.status, 200, created.text);
    assert.equal(created.body.stream, "order-by-command");
    assert.equal(created.headers.get("etag"), '"1"');
    assert.equal((await seen(created.body.position)).customerName, "Barbara Liskov");

    await settledOrder(demo.address, "by-command");
    assertProblem(await send("ConfirmOrder", { orderId: "by-command" }), 409, "REFUSED");
    assertProblem(await send("ConfirmOrder", { orderId: "by-nobody" }), 409, "REFUSED");

    const cancelled = await send("CancelOrder", { orderId: "by-command", reason: "too late" });
    assert.equal(cancelled.status, 200, cancelled.text);
    const last = await seen(cancelled.body.position);
    assert.deepEqual([last.status, last.cancelReason], ["cancelled", "too late"]);
    assertProblem(await send("CancelOrder", { orderId: "by-command" }), 409, "REFUSED");

    const answer = await request(at("/queries/OrdersByCustomer"), {
      body: { customerId: "c-4" },
      headers: { "x-after": cancelled.body.position },
    });
    assert.deepEqual(answer.body.map(({ id, status }: { id: string; status: string }) => [id, status]), [
      ["by-command", "cancelled"],
    ]);
    assert.deepEqual((await request(at("/queries/OrdersByCustomer?customerId=c-99"))).body, []);
  });

  test("are refused by type and by schema, and a position that is none as well", async () => {
    assertProblem(await request(at("/commands/DropOrder"), { body: {} }), 404, "HANDLER_NOT_FOUND");
    assertProblem(await request(at("/queries/OrderByName?name=x")), 404, "HANDLER_NOT_FOUND");
    assertProblem(await request(at("/queries/OrderById")), 422, "VALIDATION_FAILED");
    const wrong = await request(at("/queries/OrderById?orderId=x"), { headers: { "x-after": "yesterday" } });
    assertProblem(wrong, 400, "INVALID_ARGUMENT");
  });

  test("an order's stream shows its events as CloudEvents, in order", async () => {
    const id = await placeOrder(demo.address);
    await settledOrder(demo.address, id);
    const { status, headers, body } = await request(at(`/streams/order-${id}`));
    assert.equal(status, 200);
    assert.equal(headers.get("etag"), '"2"');
    assert.equal(body.version, 2);
    const types = body.events.map(({ type, data }: { type: string; data: { orderId: string } }) => [
      type,
      data.orderId,
    ]);
    assert.deepEqual(types, [["order.created", id], ["order.confirmed", id]]);
    assertProblem(await request(at("/streams/order-nobody-ordered-this")), 404, "NOT_FOUND");
  });

  test("the topic of orders is followed from its start, and resumed after the last event that came", async () => {
    const id = await placeOrder(demo.address, { orderId: "followed" });
    const url = at(`/topics/order/events?from=start&key=${id}`);
    const type = ({ event }: { event: string }) => event;
    const all = await follow(url, (events) => events.length === CONFIRMED.length);
    assert.deepEqual(all.map(type), CONFIRMED);
    const two = all[1];
    assert.ok(two);
    const rest = await follow(url, (events) => events.length === 3, { headers: { "last-event-id": two.id } });
    assert.deepEqual(rest, all.slice(2));
    for (const { data } of all) assert.equal(JSON.parse(data).data.orderId, id);
  });
});

describe("the demo's process", () => {
  test("keeps its data folder to itself: a second one says so and ends, and changes nothing", async () => {
    await using second = runCli(["demo", "--port=0", "--no-feed"], { data });
    assert.equal((await within(START_MS, second.ended)).code, 1, second.output());
    assert.match(
      second.output(),
      /Cannot open \S+: another process uses it; end that one, or name another with DATA_DIR/,
    );
    const id = await placeOrder(demo.address);
    assert.equal((await settledOrder(demo.address, id)).status, "confirmed");
  });

  test("is ready and live, and ends at SIGTERM with 0 although somebody follows a topic", async () => {
    assert.equal((await request(at("/health/live"))).status, 200);
    const ready = await request(at("/health/ready"));
    assert.equal(ready.status, 200, ready.text);
    assert.equal(ready.body.ready, true);

    let seen = 0;
    const following = follow(at("/topics/order/events?from=start"), (events) => (seen = events.length) > 1e9);
    const ended = assert.rejects(following, /it ended after \d+ events/);
    await eventually(() => seen > 0);
    const end = await within(8_000, toldToEnd(demo), "still running"); // streams that are only cut off take ten
    assert.deepEqual(end, { code: 0, signal: null }, demo.process.output());
    await ended;
  });
});
