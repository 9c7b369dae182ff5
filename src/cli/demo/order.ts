/**
 * The order: its events, its commands and the aggregate that decides.
 *
 * @module
 */
import * as v from "valibot";
import {
  type Aggregate,
  aggregate,
  command,
  type CommandDefinition,
  event,
  type EventDefinition,
  refuse,
  type Schema,
} from "../../../mod.ts";
import { customers, products } from "./catalogue.ts";

const Id = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/, "expected 1 to 100 of A-Z a-z 0-9 . _ -"),
);

/** One line of an order. */
export interface OrderItem {
  readonly productId: string;
  readonly quantity: number;
  readonly price: number;
}

/** The data of most order events. */
export interface OrderRef {
  readonly orderId: string;
}

/** What an order is created with. */
export interface NewOrder extends OrderRef {
  readonly customerId: string;
  readonly items: OrderItem[];
}

const Item = v.object({
  productId: v.pipe(v.string(), v.check((id) => products.has(id), "unknown product, expected p-1 to p-20")),
  quantity: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(1_000)),
  price: v.pipe(v.number(), v.minValue(0), v.maxValue(1_000_000)),
});
const Customer = v.pipe(
  v.string(),
  v.check((id) => customers.has(id), "unknown customer, expected c-1 to c-5"),
);
const Items = v.pipe(v.array(Item), v.minLength(1), v.maxLength(100));
const Ref: Schema<unknown, OrderRef> = v.object({ orderId: Id });

const options = { topic: "order", key: ({ orderId }: OrderRef): string => orderId };

export const OrderCreated: EventDefinition<NewOrder & { readonly total: number }, "order.created"> = event(
  "order.created",
  v.object({
    orderId: Id,
    customerId: v.string(),
    items: v.array(v.object({ productId: v.string(), quantity: v.number(), price: v.number() })),
    total: v.number(),
  }),
  options,
);
export const OrderConfirmed: EventDefinition<OrderRef, "order.confirmed"> = event(
  "order.confirmed",
  Ref,
  options,
);
export const OrderShipped: EventDefinition<OrderRef, "order.shipped"> = event("order.shipped", Ref, options);
export const OrderDelivered: EventDefinition<OrderRef, "order.delivered"> = event(
  "order.delivered",
  Ref,
  options,
);
export const OrderCancelled: EventDefinition<OrderRef & { readonly reason: string }, "order.cancelled"> =
  event(
    "order.cancelled",
    v.object({ orderId: Id, reason: v.string() }),
    options,
  );

export const CreateOrder: CommandDefinition<NewOrder, unknown, "CreateOrder"> = command(
  "CreateOrder",
  v.object({ orderId: v.optional(Id, () => `o-${crypto.randomUUID()}`), customerId: Customer, items: Items }),
);
export const ConfirmOrder: CommandDefinition<OrderRef, unknown, "ConfirmOrder"> = command(
  "ConfirmOrder",
  Ref,
);
export const ShipOrder: CommandDefinition<OrderRef, unknown, "ShipOrder"> = command("ShipOrder", Ref);
export const DeliverOrder: CommandDefinition<OrderRef, unknown, "DeliverOrder"> = command(
  "DeliverOrder",
  Ref,
);
export const CancelOrder: CommandDefinition<OrderRef & { readonly reason: string }, unknown, "CancelOrder"> =
  command(
    "CancelOrder",
    v.object({
      orderId: Id,
      reason: v.optional(v.pipe(v.string(), v.maxLength(500)), "cancelled by the customer"),
    }),
  );

/** Where an order stands. */
export type OrderStatus = "none" | "pending" | "confirmed" | "shipped" | "delivered" | "cancelled";

/** The order aggregate. */
export const Order: Aggregate<OrderStatus> = aggregate("order", {
  commands: [CreateOrder, ConfirmOrder, ShipOrder, DeliverOrder, CancelOrder],
  events: [OrderCreated, OrderConfirmed, OrderShipped, OrderDelivered, OrderCancelled],
  initial: (): OrderStatus => "none",
  decide: {
    CreateOrder: ({ data }, status) =>
      status === "none" ? [OrderCreated({ ...data, total: totalOf(data.items) })] : refuse("ORDER_EXISTS"),
    ConfirmOrder: ({ data }, status) =>
      status === "pending" ? [OrderConfirmed(data)] : not("confirm", status),
    ShipOrder: ({ data }, status) => status === "confirmed" ? [OrderShipped(data)] : not("ship", status),
    DeliverOrder: ({ data }, status) =>
      status === "shipped" ? [OrderDelivered(data)] : not("deliver", status),
    CancelOrder: ({ data }, status) =>
      status === "pending" || status === "confirmed" ? [OrderCancelled(data)] : not("cancel", status),
  },
  evolve: {
    "order.created": () => "pending",
    "order.confirmed": () => "confirmed",
    "order.shipped": () => "shipped",
    "order.delivered": () => "delivered",
    "order.cancelled": () => "cancelled",
  },
});

function not(verb: string, status: OrderStatus): ReturnType<typeof refuse> {
  return status === "none"
    ? refuse("ORDER_NOT_FOUND", "There is no such order")
    : refuse("WRONG_STATUS", `Cannot ${verb} an order that is ${status}`);
}

/** In whole cents, so that no fraction of a cent creeps in. */
function totalOf(items: readonly OrderItem[]): number {
  return items.reduce((cents, { quantity, price }) => cents + Math.round(price * 100) * quantity, 0) / 100;
}
