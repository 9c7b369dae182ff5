/** The order example on Postgres: aggregate, projection, saga and consumer, each with writes of its own in SQL. */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { after, test } from "node:test";
import * as v from "valibot";
import type { Millstream } from "../../src/app/application.ts";
import { millstream } from "../../src/app/millstream.ts";
import { command, event, query } from "../../src/core/definition.ts";
import { refuse } from "../../src/core/errors.ts";
import type { Observation } from "../../src/core/observer.ts";
import { systemClock } from "../../src/core/clock.ts";
import type { Broker } from "../../src/ports/broker.ts";
import { saga } from "../../src/sagas/definition.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import type { Store } from "../../src/ports/store.ts";
import { type Projection, projection } from "../../src/sourcing/projection.ts";
import { startProjection } from "../../src/sourcing/projection_runner.ts";
import { patched, unmarked } from "../unit/messaging_fixture.ts";
import { eventually } from "../support/wait.ts";
import { postgres, postgresJsDriver } from "../../src/postgres/mod.ts";
import { service } from "../support/require.ts";

const { url, skip } = service("postgres");
const schemas: string[] = [];
after(async () => {
  if (skip) return;
  const driver = postgresJsDriver({ url, max: 1, transactions: 1 });
  for (const schema of schemas) {
    await driver.script(`set client_min_messages = warning; drop schema if exists ${schema} cascade`);
  }
  await driver[Symbol.asyncDispose]();
});

const Item = v.object({ productId: v.string(), quantity: v.number(), price: v.number() });
const NewOrder = v.object({ orderId: v.string(), customerId: v.string(), items: v.array(Item) });
const OrderId = v.object({ orderId: v.string() });
const PlaceOrder = command("order.place", NewOrder);
const ConfirmOrder = command("order.confirm", OrderId);
const CancelOrder = command("order.cancel", OrderId);
const OrderCreated = event("order.created", NewOrder, { key: ({ orderId }) => orderId });
const OrderConfirmed = event("order.confirmed", OrderId, { key: ({ orderId }) => orderId });
const OrderCancelled = event("order.cancelled", OrderId, { key: ({ orderId }) => orderId });
const OrderById = query("order.by-id", OrderId);

interface OrderState {
  readonly status: "none" | "pending" | "confirmed" | "cancelled";
}

const Order = aggregate("order", {
  commands: [PlaceOrder, ConfirmOrder, CancelOrder],
  events: [OrderCreated, OrderConfirmed, OrderCancelled],
  initial: (): OrderState => ({ status: "none" }),
  decide: {
    "order.place": ({ data }, { status }) =>
      status === "none" ? [OrderCreated(data)] : refuse("ORDER_EXISTS"),
    "order.confirm": ({ data }, { status }) =>
      status === "pending" ? [OrderConfirmed(data)] : refuse("NOT_PENDING"),
    "order.cancel": ({ data }, { status }) => status === "cancelled" ? [] : [OrderCancelled(data)],
  },
  evolve: {
    "order.created": (): OrderState => ({ status: "pending" }),
    "order.confirmed": (): OrderState => ({ status: "confirmed" }),
    "order.cancelled": (): OrderState => ({ status: "cancelled" }),
  },
});

function orders(table: string): Projection {
  return projection(
    "orders",
    { on: [OrderCreated, OrderConfirmed, OrderCancelled] },
    async (events, { sql }) => {
      for (const { type, data } of events) {
        if (type === "order.created") {
          const total = data.items.reduce((sum, { quantity, price }) => sum + quantity * price, 0);
          await sql`insert into ${sql(table)} ${sql({ id: data.orderId, status: "pending", total })}`;
        } else {
          const status = type === "order.confirmed" ? "confirmed" : "cancelled";
          await sql`update ${
            sql(table)
          } set status = ${status}, changes = changes + 1 where id = ${data.orderId}`;
        }
      }
    },
  );
}

const FulfilmentData = v.object({ orderId: v.string(), paymentId: v.optional(v.string()) });

/** Where each test has its tables. */
interface Shop {
  readonly app: Millstream;
  readonly store: Store;
  readonly seen: Observation[];
  /** The name of a table of this test. */
  table(name: string): string;
  rows(name: string): Promise<readonly Record<string, unknown>[]>;
}

async function shop(broker: (broker: Broker) => Broker = (broker) => broker): Promise<Shop> {
  const schema = `app_${randomUUID().slice(0, 8)}`;
  schemas.push(schema);
  const store = postgres({ url, schema, pollMs: 20, max: 4, transactions: 4 });
  await store.start();
  const seen: Observation[] = [];
  const app = millstream({ store, broker: broker(store.broker()), observer: (one) => void seen.push(one) });
  const table = (name: string): string => `${schema}.my_${name}`;
  for (const name of ["invoices", "orders"]) {
    await store.sql`create table ${store.sql(table(name))}
      (id text primary key, status text, total float8, changes int not null default 0)`;
  }
  return {
    app,
    store,
    seen,
    table,
    rows: async (name) => await store.sql`select * from ${store.sql(table(name))} order by id`,
  };
}

const item = { productId: "p-1", quantity: 2, price: 21 };

test("an order is placed, paid, confirmed and read back by who placed it", { skip }, async () => {
  const { app, table, rows, store } = await shop();
  const paid: string[] = [];
  const Orders = orders(table("orders"));
  const Fulfilment = saga("order-fulfilment", FulfilmentData)
    .step("process-payment", {
      run(data, ctx) {
        paid.push(ctx.idempotencyKey);
        if (data.orderId === "o-2") throw refuse("NO_MONEY");
        return { paymentId: `pay-${data.orderId}` };
      },
    })
    .step("confirm-order", {
      run: async (data, ctx) => void await ctx.dispatch(ConfirmOrder, { orderId: data.orderId }),
    });
  // The first step's undo cancels the order, and so must have run.
  const Guarded = saga("order-guard", FulfilmentData)
    .step("hold-order", {
      run: () => {},
      undo: async (data, ctx) => void await ctx.dispatch(CancelOrder, { orderId: data.orderId }),
    })
    .step("check", {
      run: (data) => {
        if (data.orderId === "o-2") throw refuse("NO_MONEY");
      },
    });
  app.use(Order, { id: ({ orderId }) => orderId }).use(Orders)
    .use(Fulfilment, { startOn: OrderCreated, data: ({ data }) => ({ orderId: data.orderId }) })
    .use(Guarded, { startOn: OrderCreated, data: ({ data }) => ({ orderId: data.orderId }) })
    .answer(OrderById, { after: [Orders] }, async ({ orderId }, { sql }) => {
      const [row] = await sql`select status, total from ${sql(table("orders"))} where id = ${orderId}`;
      return row;
    });
  await app.start();
  const placed = await app.dispatch(PlaceOrder, { orderId: "o-1", customerId: "c-1", items: [item] }, {
    userId: "u-1",
  });
  const read = await app.ask(OrderById, { orderId: "o-1" }, { after: placed }) as { total: number };
  assert.equal(read.total, 42);
  await assert.rejects(app.dispatch(PlaceOrder, { orderId: "o-1", customerId: "c-1", items: [] }), {
    code: "REFUSED",
  });
  await app.dispatch(PlaceOrder, { orderId: "o-2", customerId: "c-1", items: [item] });
  await eventually(async () => {
    const found = await rows("orders");
    assert.deepEqual(found.map(({ id, status, changes }) => [id, status, changes]), [
      ["o-1", "confirmed", 1],
      ["o-2", "cancelled", 1],
    ]);
    const instances = await store.sagas.list({ limit: 10 });
    assert.deepEqual(instances.map(({ status }) => status).sort(), [
      "compensated",
      "compensated",
      "completed",
      "completed",
    ]);
  });
  assert.equal(new Set(paid).size, 2);
  assert.equal(paid.length, 2);
  const [created] = await store.events.readStream("order-o-1");
  assert.equal(JSON.parse(created!.body).userid, "u-1");
  assert.equal((await app.health()).ready, true);
  await app.close();
});

for (const marked of [true, false]) {
  test(
    `a message handled twice${marked ? "" : ", not marked as delivered again,"} leaves one row`,
    { skip },
    async () => {
      // Interleaving: the effects are committed, the acknowledgement is lost, the message comes again.
      let lost = 0;
      const { app, table, rows, seen } = await shop((broker) =>
        patched(broker, (original) => ({
          ack: (deliveries) =>
            lost++ === 0 ? original.release(deliveries).then(() => []) : original.ack(deliveries),
          pull: async (...args) =>
            marked ? await original.pull(...args) : unmarked(await original.pull(...args)),
        }))
      );
      app.on(OrderCreated, { group: "billing" }, async ({ data }, { sql }) => {
        const where = sql`where id = ${data.orderId}`; // a statement inside another one
        await sql`insert into ${sql(table("invoices"))} ${sql({ id: data.orderId, total: 1 })}`;
        await sql`update ${sql(table("invoices"))} set changes = changes + 1 ${where}`;
      });
      await app.start();
      await app.publish(OrderCreated, { orderId: "o-1", customerId: "c", items: [] });
      await eventually(() => seen.some(({ kind }) => kind === "duplicate"));
      assert.deepEqual((await rows("invoices")).map(({ id, changes }) => [id, changes]), [["o-1", 1]]);
      assert.equal(seen.filter(({ kind }) => kind === "handled").length, 1);
      await app.close();
    },
  );
}

test("a message in the hands of two handlers at the same time leaves one row", { skip }, async () => {
  // Interleaving: both transactions are open; the second one's note in the inbox waits for the first one's commit.
  const { app, table, rows, seen } = await shop((broker) =>
    patched(broker, (original) => ({
      pull: async (...args) =>
        (await original.pull(...args)).flatMap((
          { key: _, ...one },
        ) => [one, { ...one, token: `${one.token}x` }]),
      ack: async (deliveries) => await original.ack(deliveries.filter(({ token }) => !token.endsWith("x"))),
      extend: async (deliveries) =>
        await original.extend(deliveries.filter(({ token }) => !token.endsWith("x"))),
    }))
  );
  let running = 0;
  let most = 0;
  app.on(OrderCreated, { group: "billing" }, async ({ data }, { sql }) => {
    most = Math.max(most, ++running);
    await sql`insert into ${sql(table("invoices"))} ${sql({ id: `${data.orderId}-${running}` })}`;
    await sql`select pg_sleep(0.05)`;
    running--;
  });
  await app.start();
  await app.publish(OrderCreated, { orderId: "o-1", customerId: "c", items: [] });
  await eventually(() => seen.some(({ kind }) => kind === "duplicate"));
  assert.equal((await rows("invoices")).length, 1);
  assert.equal(most, 2);
  await app.close();
});

test(
  "a handler that throws after its insert leaves no row, no event and no message; its retry leaves one of each",
  { skip },
  async () => {
    const { app, table, rows, store, seen } = await shop();
    let fail = true;
    const tried: number[] = [];
    const confirmed: string[] = [];
    app.on(OrderCreated, { group: "billing", retry: { baseMs: 1 } }, async ({ data }, ctx) => {
      await ctx.sql`insert into ${ctx.sql(table("invoices"))} ${ctx.sql({ id: data.orderId })}`;
      await ctx.append("invoice-1", [OrderConfirmed({ orderId: data.orderId })]);
      await ctx.publish(OrderCancelled, { orderId: data.orderId });
      tried.push(ctx.attempt);
      if (fail) throw new Error("after all of it");
    });
    app.on(OrderConfirmed, { group: "other" }, ({ id }) => void confirmed.push(id));
    app.on(OrderCancelled, { group: "other" }, ({ id }) => void confirmed.push(id));
    await app.start();
    await app.publish(OrderCreated, { orderId: "o-1", customerId: "c", items: [] });
    await eventually(() => tried.length >= 2);
    assert.equal((await rows("invoices")).length, 0);
    assert.equal((await store.events.readStream("invoice-1")).length, 0);
    fail = false;
    await eventually(() => confirmed.length === 2);
    assert.equal((await rows("invoices")).length, 1);
    assert.equal((await store.events.readStream("invoice-1")).length, 1);
    assert.equal(seen.filter(({ kind }) => kind === "handled").length >= 1, true);
    await app.close();
  },
);

test("a handler over its timeout has its row rolled back, and its retry's row stays", { skip }, async () => {
  const { app, table, rows, seen } = await shop();
  let zombie = "";
  app.on(
    OrderCreated,
    { group: "billing", timeoutMs: 150, retry: { baseMs: 1 } },
    async (_, { sql, attempt, signal }) => {
      await sql`insert into ${sql(table("invoices"))} ${sql({ id: `try-${attempt}` })}`;
      if (attempt > 1) return;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      zombie = (signal.reason as { code: string }).code;
    },
  );
  await app.start();
  await app.publish(OrderCreated, { orderId: "o-1", customerId: "c", items: [] });
  await eventually(() => seen.some(({ kind }) => kind === "handled"));
  assert.deepEqual([zombie, (await rows("invoices")).map(({ id }) => id)], ["HANDLER_TIMEOUT", ["try-2"]]);
  await app.close();
});

test(
  "a projection's leader paused before its transaction is refused: each event counts once",
  { skip },
  async () => {
    // Interleaving: p1 has read a batch and is paused; its lease goes to p2, which applies the batch; p1 begins to write.
    const { app, store, table, rows } = await shop();
    const Orders = orders(table("orders"));
    app.use(Order, { id: ({ orderId }) => orderId });
    const { position } = await app.dispatch(PlaceOrder, { orderId: "o-1", customerId: "c", items: [item] });
    await app.dispatch(ConfirmOrder, { orderId: "o-1" });
    let wake = (): void => {};
    const paused = new Promise<void>((resolve) => wake = resolve);
    let reads = 0;
    const readAll: typeof store.events.readAll = async (...args) => {
      const page = await store.events.readAll(...args);
      if (reads++ === 0) await paused;
      return page;
    };
    const seen: Observation[] = [];
    const observer = (one: Observation): void => void seen.push(one);
    const slow = { ...store, events: { ...store.events, readAll } };
    const p1 = startProjection({ store: slow, clock: systemClock, observer, owner: "p1" }, Orders);
    await eventually(() => reads === 1);
    // p1's lease is over: another process may take it.
    await store.leases.acquire("projection/orders", "p1", 1);
    const p2 = startProjection({ store, clock: systemClock, observer: () => {}, owner: "p2" }, Orders);
    await eventually(async () => (await store.checkpoints.load("orders")) > BigInt(position!));
    wake();
    await eventually(() => seen.some(({ kind }) => kind === "lease-lost"));
    assert.deepEqual((await rows("orders")).map(({ id, status, changes }) => [id, status, changes]), [[
      "o-1",
      "confirmed",
      1,
    ]]);
    await Promise.all([p1.stop(), p2.stop()]);
    await app.close();
  },
);

test("a projection that throws after its write leaves neither row nor checkpoint", { skip }, async () => {
  const { app, store, table, rows } = await shop();
  let tries = 0;
  app.use(Order, { id: ({ orderId }) => orderId }).use(
    projection("orders", { on: [OrderCreated] }, async (events, { sql }) => {
      for (const { data } of events) {
        await sql`insert into ${sql(table("orders"))} ${sql({ id: data.orderId })}`;
      }
      if (++tries < 3) throw new Error("after the write");
    }),
  );
  await app.dispatch(PlaceOrder, { orderId: "o-1", customerId: "c", items: [item] });
  await app.start();
  await eventually(() => tries >= 2);
  await eventually(async () => (await rows("orders")).length === 1);
  assert.equal(tries, 3);
  assert.ok((await store.checkpoints.load("orders")) > 0n);
  await app.close();
});
