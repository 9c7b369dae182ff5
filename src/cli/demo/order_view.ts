/**
 * The order read model: built from the order's and its fulfilment's events, with the names of customer and products.
 *
 * @module
 */
import * as v from "valibot";
import { type Projection, projection, query, type QueryDefinition, type Sql } from "../../../mod.ts";
import { customers, products } from "./catalogue.ts";
import {
  InventoryReleased,
  InventoryReserved,
  PaymentProcessed,
  PaymentRefunded,
  ShipmentCancelled,
  ShipmentCreated,
} from "./fulfilment.ts";
import {
  OrderCancelled,
  OrderConfirmed,
  OrderCreated,
  OrderDelivered,
  OrderShipped,
  type OrderStatus,
} from "./order.ts";

/** An order as it is shown. */
export interface OrderReadModel {
  readonly id: string;
  readonly customerId: string;
  readonly customerName: string;
  readonly status: OrderStatus;
  readonly items: readonly {
    readonly productId: string;
    readonly productName: string;
    readonly quantity: number;
    readonly price: number;
  }[];
  readonly total: number;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly cancelReason?: string;
  /** What happened, oldest first. */
  readonly history: readonly string[];
}

export const OrderById: QueryDefinition<{ readonly orderId: string }, OrderReadModel | null, "OrderById"> =
  query(
    "OrderById",
    v.object({ orderId: v.string() }),
  );
export const OrdersByCustomer: QueryDefinition<
  { readonly customerId: string },
  readonly OrderReadModel[],
  "OrdersByCustomer"
> = query(
  "OrdersByCustomer",
  v.object({ customerId: v.string() }),
);

/** Makes the tables the demo's handlers write to. `if not exists` alone fails where two processes do it at the same time. */
export async function createTables(sql: Sql): Promise<void> {
  await sql`select pg_advisory_xact_lock(hashtext('millstream demo'))`;
  await sql`create schema if not exists demo`;
  await sql`create table if not exists demo.orders
    (id text primary key, customer_id text not null, created_at text not null, view text not null)`;
  await sql`create index if not exists orders_by_customer on demo.orders (customer_id, created_at)`;
  await sql`create table if not exists demo.github_activity
    (repository text not null, event text not null, count int not null, primary key (repository, event))`;
}

const STATUS: Readonly<Record<string, OrderStatus>> = {
  "order.confirmed": "confirmed",
  "order.shipped": "shipped",
  "order.delivered": "delivered",
  "order.cancelled": "cancelled",
};

/** Keeps `demo.orders`. */
export const Orders: Projection = projection("orders", {
  on: [
    OrderCreated,
    OrderConfirmed,
    OrderShipped,
    OrderDelivered,
    OrderCancelled,
    InventoryReserved,
    InventoryReleased,
    PaymentProcessed,
    PaymentRefunded,
    ShipmentCreated,
    ShipmentCancelled,
  ],
}, async (events, { sql }) => {
  for (const event of events) {
    if (event.type === "order.created") {
      const { orderId, customerId, items, total } = event.data;
      const order: OrderReadModel = {
        id: orderId,
        customerId,
        customerName: customers.get(customerId)?.name ?? customerId,
        status: "pending",
        items: items.map((item) => ({
          ...item,
          productName: products.get(item.productId)?.name ?? item.productId,
        })),
        total,
        createdAt: event.time,
        updatedAt: event.time,
        history: [event.type],
      };
      await sql`insert into demo.orders ${
        sql({ id: orderId, customer_id: customerId, created_at: event.time, view: JSON.stringify(order) })
      }`;
      continue;
    }
    const order = await readOrder(sql, event.data.orderId);
    if (!order) continue;
    const next: OrderReadModel = {
      ...order,
      status: STATUS[event.type] ?? order.status,
      updatedAt: event.time,
      history: [...order.history, event.type],
      ...(event.type === "order.cancelled" ? { cancelReason: event.data.reason } : {}),
    };
    await sql`update demo.orders set view = ${JSON.stringify(next)} where id = ${order.id}`;
  }
});

/** One order, or `null`. */
export async function readOrder(sql: Sql, id: string): Promise<OrderReadModel | null> {
  const [row] = await sql<{ view: string }>`select view from demo.orders where id = ${id}`;
  return row ? JSON.parse(row.view) as OrderReadModel : null;
}

/** A customer's orders, newest first. */
export async function readOrders(sql: Sql, customerId: string): Promise<readonly OrderReadModel[]> {
  const rows = await sql<{ view: string }>`
    select view from demo.orders where customer_id = ${customerId} order by created_at desc limit 100`;
  return rows.map(({ view }) => JSON.parse(view) as OrderReadModel);
}
