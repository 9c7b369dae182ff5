/** The order read model: built from what happens to orders, enriched from the read models of customers and products. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as v from "valibot";
import { millstream } from "../../src/app/millstream.ts";
import { event, query } from "../../src/core/definition.ts";
import type { Sql } from "../../src/ports/sql.ts";
import type { PostgresStore } from "../../src/postgres/mod.ts";
import { projection, type ProjectionTarget } from "../../src/sourcing/projection.ts";
import { eventually } from "../support/wait.ts";
import { openers, type StoreOpener, uniqueSchema } from "./postgres_fixture.ts";

const Item = v.object({ productId: v.string(), quantity: v.number(), price: v.number() });
const Ref = v.object({ orderId: v.string() });
const CustomerRegistered = event("CustomerRegistered", v.object({ id: v.string(), name: v.string() }), {
  topic: "customer",
});
const ProductAdded = event("ProductAdded", v.object({ id: v.string(), name: v.string() }), {
  topic: "product",
});
const OrderCreated = event(
  "OrderCreated",
  v.object({ orderId: v.string(), customerId: v.string(), items: v.array(Item) }),
  { topic: "order" },
);
const OrderConfirmed = event("OrderConfirmed", Ref, { topic: "order" });
const OrderCancelled = event("OrderCancelled", Ref, { topic: "order" });

interface OrderReadModel {
  readonly id: string;
  readonly customerId: string;
  readonly customerName: string;
  readonly status: "pending" | "confirmed" | "cancelled";
  readonly items: readonly (v.InferOutput<typeof Item> & { readonly productName: string })[];
  readonly total: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

const GetOrder = query("GetOrder", Ref);

for (const opener of [openers.postgres, openers.pglite]) register(opener);

function register({ name, skip, open, drop, end }: StoreOpener): void {
  const schema = uniqueSchema("order");
  let store: PostgresStore | undefined;
  after(async () => {
    await store?.[Symbol.asyncDispose]();
    if (!skip) await drop(schema);
    await end();
  });
  const table = (name: string): string => `${schema}.my_${name}`;

  /** Names by id, as another projection keeps them. */
  const named = (kind: "customer" | "product") => ({
    create: async ({ sql }: ProjectionTarget): Promise<void> => {
      await sql`create table if not exists ${sql(table(kind))} (id text primary key, name text not null)`;
    },
    apply: async (
      events: readonly { readonly data: { id: string; name: string } }[],
      sql: Sql,
    ): Promise<void> => {
      for (const { data: { id, name } } of events) {
        await sql`insert into ${sql(table(kind))} ${
          sql({ id, name })
        } on conflict (id) do update set name = excluded.name`;
      }
    },
  });
  const [customers, products] = [named("customer"), named("product")];
  const Customers = projection(
    "customers",
    { on: [CustomerRegistered], create: customers.create },
    (events, { sql }) => customers.apply(events, sql),
  );
  const Products = projection(
    "products",
    { on: [ProductAdded], create: products.create },
    (events, { sql }) => products.apply(events, sql),
  );

  const nameOf = async (sql: Sql, kind: string, id: string): Promise<string> => {
    const [row] = await sql<{ name: string }>`select name from ${sql(table(kind))} where id = ${id}`;
    return row?.name ?? "Unknown";
  };
  const read = async (sql: Sql, orders: string, id: string): Promise<OrderReadModel | undefined> => {
    const [row] = await sql<{ view: string }>`select view from ${sql(orders)} where id = ${id}`;
    return row && JSON.parse(row.view) as OrderReadModel;
  };
  const OrderProjection = projection("orders", {
    on: [OrderCreated, OrderConfirmed, OrderCancelled],
    create: ({ sql, suffix }) =>
      sql`create table ${sql(table("orders") + suffix)} (id text primary key, view text not null)`,
    swap: async ({ sql, suffix }) => {
      await sql`create or replace view ${sql(table("order_view"))} as select * from ${
        sql(table("orders") + suffix)
      }`;
    },
    drop: ({ sql, suffix }) => sql`drop table ${sql(table("orders") + suffix)}`,
  }, async (events, { sql, suffix }) => {
    const orders = table("orders") + suffix;
    for (const { type, data, time } of events) {
      if (type === "OrderCreated") {
        const view: OrderReadModel = {
          id: data.orderId,
          customerId: data.customerId,
          customerName: await nameOf(sql, "customer", data.customerId),
          status: "pending",
          items: await Promise.all(data.items.map(async (item) => ({
            ...item,
            productName: await nameOf(sql, "product", item.productId),
          }))),
          total: data.items.reduce((sum, { price, quantity }) => sum + price * quantity, 0),
          createdAt: time,
          updatedAt: time,
        };
        await sql`insert into ${sql(orders)} ${sql({ id: view.id, view: JSON.stringify(view) })}`;
      } else {
        const status = type === "OrderConfirmed" ? "confirmed" : "cancelled";
        const view = { ...await read(sql, orders, data.orderId), status, updatedAt: time };
        await sql`update ${sql(orders)} set view = ${JSON.stringify(view)} where id = ${data.orderId}`;
      }
    }
  });

  test(
    `${name}: an order is read back as it stands, with the names of its customer and products, also after a rebuild`,
    { skip },
    async () => {
      store = await open(schema, { pollMs: 20 });
      const app = millstream({ store }).use(Customers).use(Products).use(OrderProjection)
        .answer(
          GetOrder,
          { after: [OrderProjection] },
          async ({ orderId }, { sql }) => await read(sql, table("order_view"), orderId),
        );
      await app.start();
      await app.append("customer-c-1", [CustomerRegistered({ id: "c-1", name: "Ada" })]);
      const { position: known } = await app.append("product-p-1", [
        ProductAdded({ id: "p-1", name: "Lamp" }),
      ]);
      await app.projections.waitFor(known.toString(), { waitMs: 30_000 });
      const item = { productId: "p-1", quantity: 2, price: 21 };
      await app.append("order-o-1", [OrderCreated({ orderId: "o-1", customerId: "c-1", items: [item] })], 0);
      await app.append("order-o-2", [OrderCreated({ orderId: "o-2", customerId: "c-9", items: [] })], 0);
      await app.append("order-o-1", [OrderConfirmed({ orderId: "o-1" })], 1);
      const { position } = await app.append("order-o-2", [OrderCancelled({ orderId: "o-2" })], 1);
      const ask = async (orderId: string): Promise<OrderReadModel> =>
        await app.ask(GetOrder, { orderId }, {
          after: position.toString(),
          waitMs: 30_000,
        }) as OrderReadModel;

      const first = await ask("o-1");
      assert.deepEqual({ ...first, createdAt: "", updatedAt: "" }, {
        id: "o-1",
        customerId: "c-1",
        customerName: "Ada",
        status: "confirmed",
        items: [{ ...item, productName: "Lamp" }],
        total: 42,
        createdAt: "",
        updatedAt: "",
      });
      assert.ok(first.createdAt <= first.updatedAt);
      const second = await ask("o-2");
      assert.deepEqual([second.status, second.customerName], ["cancelled", "Unknown"]);

      await app.append("customer-c-9", [CustomerRegistered({ id: "c-9", name: "Late" })]);
      await app.projections.rebuild("orders");
      await eventually(
        async () => (await app.projections.list()).find((one) => one.name === "orders")!.build === 2,
        {
          withinMs: 30_000,
        },
      );
      assert.deepEqual(await ask("o-1"), first, "the same events make the same order");
      assert.equal((await ask("o-2")).customerName, "Late");
      await app.close();
      store = undefined;
    },
  );
}
