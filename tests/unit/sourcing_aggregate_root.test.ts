/** The order of the introduction to event sourcing, as a class: create, confirm while pending, cancel unless it is too late. */
import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import { command, event } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import {
  aggregateOf,
  AggregateRoot,
  type AppliedEvent,
  repository,
} from "../../src/sourcing/aggregate_root.ts";
import { given } from "../../src/testing/mod.ts";

const Item = v.object({ productId: v.string(), quantity: v.number(), price: v.number() });
const OrderId = v.object({ orderId: v.string() });
const NewOrder = v.object({ orderId: v.string(), customerId: v.string(), items: v.array(Item) });
const OrderCreated = event("OrderCreated", v.object({ ...NewOrder.entries, total: v.number() }), {
  topic: "order",
});
const OrderConfirmed = event("OrderConfirmed", OrderId, { topic: "order" });
const OrderShipped = event("OrderShipped", OrderId, { topic: "order" });
const OrderCancelled = event("OrderCancelled", v.object({ orderId: v.string(), reason: v.string() }), {
  topic: "order",
});
const CreateOrder = command("CreateOrder", NewOrder);
const ConfirmOrder = command("ConfirmOrder", OrderId);
const ShipOrder = command("ShipOrder", OrderId);
const CancelOrder = command("CancelOrder", v.object({ orderId: v.string(), reason: v.string() }));

type OrderEvent = typeof OrderCreated | typeof OrderConfirmed | typeof OrderShipped | typeof OrderCancelled;

class Order extends AggregateRoot<OrderEvent> {
  status = "none";
  total = 0;

  create(order: v.InferOutput<typeof NewOrder>): void {
    if (this.version > 0) throw refuse("ORDER_EXISTS");
    const total = order.items.reduce((sum, { quantity, price }) => sum + quantity * price, 0);
    this.apply(OrderCreated({ ...order, total }));
  }

  confirm(): void {
    if (this.status !== "pending") {
      throw refuse("NOT_PENDING", `Cannot confirm an order that is ${this.status}`);
    }
    this.apply(OrderConfirmed({ orderId: this.id }));
  }

  ship(): void {
    this.apply(OrderShipped({ orderId: this.id }));
  }

  cancel(reason: string): void {
    if (["shipped", "delivered", "cancelled"].includes(this.status)) throw refuse("TOO_LATE");
    this.apply(OrderCancelled({ orderId: this.id, reason }));
  }

  protected when(event: AppliedEvent<OrderEvent>): void {
    switch (event.type) {
      case "OrderCreated":
        this.status = "pending";
        this.total = event.data.total;
        break;
      case "OrderConfirmed":
        this.status = "confirmed";
        break;
      case "OrderShipped":
        this.status = "shipped";
        break;
      case "OrderCancelled":
        this.status = "cancelled";
    }
  }
}

const Orders = aggregateOf("order", Order, {
  commands: [CreateOrder, ConfirmOrder, ShipOrder, CancelOrder],
  events: [OrderCreated, OrderConfirmed, OrderShipped, OrderCancelled],
  handle: {
    CreateOrder: (order, { data }) => order.create(data),
    ConfirmOrder: (order) => order.confirm(),
    ShipOrder: (order) => order.ship(),
    CancelOrder: (order, { data }) => order.cancel(data.reason),
  },
});

const newOrder = { orderId: "o-1", customerId: "c-1", items: [{ productId: "p-1", quantity: 2, price: 21 }] };

test("a root changes by the events it raises, counts them, and keeps them until they are cleared", () => {
  const order = new Order("o-1");
  order.create(newOrder);
  order.confirm();
  assert.deepEqual([order.id, order.version, order.status, order.total], ["o-1", 2, "confirmed", 42]);
  assert.deepEqual(order.uncommittedEvents.map(({ type }) => type), ["OrderCreated", "OrderConfirmed"]);
  order.clearUncommittedEvents();
  assert.deepEqual([order.uncommittedEvents, order.version], [[], 2]);
  assert.throws(() => order.confirm(), { code: "REFUSED", details: { reason: "NOT_PENDING" } });
  assert.equal(order.version, 2);
});

test("a root that is loaded from its history is as the one that made it, with nothing uncommitted", () => {
  const order = new Order("o-1");
  order.create(newOrder);
  order.ship();
  const loaded = new Order("o-1");
  loaded.loadFromHistory(order.uncommittedEvents);
  assert.deepEqual([loaded.version, loaded.status, loaded.uncommittedEvents], [2, "shipped", []]);
  assert.throws(() => loaded.cancel("late"), { code: "REFUSED" });
});

test("commands call the methods: confirmed only while pending, cancelled unless it is too late", async () => {
  const app = millstream().use(Orders, { id: ({ orderId }) => orderId });
  const { version, stream } = await app.dispatch(CreateOrder, newOrder);
  assert.deepEqual([version, stream], [1, "order-o-1"]);
  await assert.rejects(app.dispatch(CreateOrder, newOrder), { details: { reason: "ORDER_EXISTS" } });
  const confirmations = await Promise.allSettled(
    [1, 2, 3].map(() => app.dispatch(ConfirmOrder, { orderId: "o-1" })),
  );
  assert.equal(confirmations.filter(({ status }) => status === "fulfilled").length, 1);
  await app.dispatch(ShipOrder, { orderId: "o-1" });
  await assert.rejects(app.dispatch(CancelOrder, { orderId: "o-1", reason: "late" }), {
    details: { reason: "TOO_LATE" },
  });
  const events = await app.store.events.readStream("order-o-1");
  assert.deepEqual(events.map(({ type }) => type), ["OrderCreated", "OrderConfirmed", "OrderShipped"]);
  assert.equal((await app.load(Orders, "o-1")).state.status, "shipped");
});

test("a repository saves what happened since the load, and refuses it if somebody was faster", async () => {
  const app = millstream().use(Orders, { id: ({ orderId }) => orderId });
  const orders = repository(app, Orders);
  const order = await orders.load("o-1");
  assert.equal(order.version, 0);
  order.create(newOrder);
  await orders.save(order);
  await orders.save(order); // nothing more to save
  const [one, other] = [await orders.load("o-1"), await orders.load("o-1")];
  assert.deepEqual([one.id, one.version, one.status], ["o-1", 1, "pending"]);
  one.confirm();
  other.cancel("no longer wanted");
  await orders.save(one);
  await assert.rejects(orders.save(other), { code: "CONCURRENCY_CONFLICT" });
  assert.equal(other.uncommittedEvents.length, 1, "kept");
  assert.equal((await orders.load("o-1")).status, "confirmed");
});

test("a repository saves in a handler's transaction: nothing is stored when the handler fails", async () => {
  const Rush = command("RushOrder", OrderId);
  const app = millstream().use(Orders, { id: ({ orderId }) => orderId });
  const orders = repository(app, Orders);
  let fail = true;
  app.handle(Rush, async ({ data }, ctx) => {
    const order = await orders.load(data.orderId);
    order.confirm();
    order.ship();
    await orders.save(order, ctx);
    if (fail) throw new Error("after the save");
  });
  await app.dispatch(CreateOrder, newOrder);
  await assert.rejects(app.dispatch(Rush, { orderId: "o-1" }), /after the save/);
  assert.equal((await orders.load("o-1")).status, "pending");
  fail = false;
  await app.dispatch(Rush, { orderId: "o-1" });
  assert.equal((await orders.load("o-1")).status, "shipped");
});

test("an aggregate made of a class can be specified as any other", async () => {
  await given(Orders).when(CreateOrder, newOrder).then([OrderCreated({ ...newOrder, total: 42 })]);
  await given(Orders, OrderCreated({ ...newOrder, total: 42 })).when(ConfirmOrder, { orderId: "o-1" })
    .then([OrderConfirmed({ orderId: "" })]);
});
