/**
 * The fulfilment of an order: a saga over inventory, payment and shipping, each step with its compensation.
 *
 * @module
 */
import * as v from "valibot";
import {
  event,
  type EventDefinition,
  isMillstreamError,
  refuse,
  type Saga,
  saga,
  type StepContext,
} from "../../../mod.ts";
import { CARD_LIMIT, customers, products } from "./catalogue.ts";
import { CancelOrder, ConfirmOrder, type OrderRef } from "./order.ts";

/** What the saga knows. */
export interface FulfilmentData {
  readonly orderId: string;
  readonly customerId: string;
  readonly items: readonly { readonly productId: string; readonly quantity: number }[];
  readonly total: number;
  readonly paymentId?: string | undefined;
  readonly shipmentId?: string | undefined;
}

const options = { topic: "order", key: ({ orderId }: OrderRef): string => orderId };
const text = v.string();

export const InventoryReserved: EventDefinition<OrderRef, "inventory.reserved"> = event(
  "inventory.reserved",
  v.object({ orderId: text }),
  options,
);
export const InventoryReleased: EventDefinition<OrderRef, "inventory.released"> = event(
  "inventory.released",
  v.object({ orderId: text }),
  options,
);
export const PaymentProcessed: EventDefinition<
  OrderRef & { readonly paymentId: string; readonly amount: number },
  "payment.processed"
> = event(
  "payment.processed",
  v.object({ orderId: text, paymentId: text, amount: v.number() }),
  options,
);
export const PaymentRefunded: EventDefinition<OrderRef & { readonly paymentId: string }, "payment.refunded"> =
  event(
    "payment.refunded",
    v.object({ orderId: text, paymentId: text }),
    options,
  );
export const ShipmentCreated: EventDefinition<
  OrderRef & { readonly shipmentId: string },
  "shipment.created"
> = event(
  "shipment.created",
  v.object({ orderId: text, shipmentId: text }),
  options,
);
export const ShipmentCancelled: EventDefinition<
  OrderRef & { readonly shipmentId: string },
  "shipment.cancelled"
> = event(
  "shipment.cancelled",
  v.object({ orderId: text, shipmentId: text }),
  options,
);

const Data = v.object({
  orderId: text,
  customerId: text,
  items: v.array(v.object({ productId: text, quantity: v.number() })),
  total: v.number(),
  paymentId: v.optional(text),
  shipmentId: v.optional(text),
});

/** The stream that shows an order's fulfilment. */
export function fulfilmentStream(orderId: string): string {
  return `fulfilment-${orderId}`;
}

/** The saga. */
export const Fulfilment: Saga<FulfilmentData> = saga<FulfilmentData>("order-fulfilment", Data)
  // Does nothing but stand first, so that the order is cancelled last, after all else has been taken back.
  .step("accept-order", {
    run: () => {},
    undo: ({ orderId }, context) => cancelOrder(orderId, context),
  })
  .step("reserve-inventory", {
    run({ orderId, items }, context) {
      const soldOut = items.find(({ productId }) => products.get(productId)?.soldOut);
      if (soldOut) throw refuse("SOLD_OUT", `${soldOut.productId} is sold out`);
      context.append(fulfilmentStream(orderId), [InventoryReserved({ orderId })]);
    },
    undo({ orderId }, context) {
      context.append(fulfilmentStream(orderId), [InventoryReleased({ orderId })]);
    },
  })
  .step("process-payment", {
    run({ orderId, customerId, total }, context) {
      if (customers.get(customerId)?.cardDeclined) throw refuse("CARD_DECLINED", "The card was declined");
      if (total > CARD_LIMIT) throw refuse("CARD_LIMIT", `No card pays more than ${CARD_LIMIT}`);
      const paymentId = `pay-${orderId}`;
      context.append(fulfilmentStream(orderId), [PaymentProcessed({ orderId, paymentId, amount: total })]);
      return { paymentId };
    },
    undo({ orderId, paymentId }, context) {
      if (paymentId) context.append(fulfilmentStream(orderId), [PaymentRefunded({ orderId, paymentId })]);
    },
  })
  .step("create-shipment", {
    run({ orderId }, context) {
      const shipmentId = `ship-${orderId}`;
      context.append(fulfilmentStream(orderId), [ShipmentCreated({ orderId, shipmentId })]);
      return { shipmentId };
    },
    undo({ orderId, shipmentId }, context) {
      if (shipmentId) context.append(fulfilmentStream(orderId), [ShipmentCancelled({ orderId, shipmentId })]);
    },
  })
  .step("confirm-order", {
    async run({ orderId }, context) {
      await context.dispatch(ConfirmOrder, { orderId });
    },
  });

async function cancelOrder(orderId: string, context: StepContext): Promise<void> {
  try {
    await context.dispatch(CancelOrder, { orderId, reason: "it could not be fulfilled" });
  } catch (failure) {
    if (!isMillstreamError(failure, "REFUSED")) throw failure; // refused: the customer has cancelled it already
  }
}
