/**
 * The demo's own routes beside the gateway's: orders as a shop would offer them.
 *
 * @module
 */
import { Hono } from "hono";
import type { Millstream } from "../../../mod.ts";
import { gateway } from "../../gateway/mod.ts";
import { orderPosition } from "./app.ts";
import { OrderById } from "./order_view.ts";

/** The gateway with `POST /orders` and `GET /orders/{id}`. */
export function demoRoutes(app: Millstream, signal: AbortSignal): Hono {
  const routes = gateway(app, { signal });
  const shop = new Hono();

  // The same checks, limits and errors as every command: the request becomes one.
  shop.post("/orders", async (c) => {
    const target = new URL(c.req.url);
    target.pathname = "/commands/CreateOrder";
    const headers = new Headers(c.req.raw.headers);
    headers.delete("prefer");
    const response = await routes.fetch(
      new Request(target, { method: "POST", headers, body: c.req.raw.body, duplex: "half" } as RequestInit),
    );
    if (!response.ok) return response;
    const { stream, position } = await response.json() as { stream: string; position: string };
    const orderId = stream.replace(/^order-/, "");
    return c.json({ message: "Order creation initiated", orderId, position }, 202, {
      location: `/orders/${orderId}`,
      "x-position": position,
    });
  });

  shop.get("/orders/:id", async (c) => {
    const orderId = c.req.param("id");
    const position = await orderPosition(app, orderId);
    const order = position === undefined ? null : await app.ask(OrderById, { orderId }, { after: position });
    return order ? c.json(order) : c.json(
      {
        type: "urn:millstream:problem:NOT_FOUND",
        title: "Not found",
        status: 404,
        code: "NOT_FOUND",
        detail: "There is no such order",
      },
      404,
      {
        "content-type": "application/problem+json",
      },
    );
  });

  shop.all("*", (c) => routes.fetch(c.req.raw));
  return shop;
}
