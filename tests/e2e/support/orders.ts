/**
 * Orders of the demo, as its users place and see them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { eventually } from "../../support/wait.ts";
import { type Answer, request } from "./http.ts";

/** What is ordered. */
export interface OrderRequest {
  readonly orderId?: string;
  readonly customerId: string;
  readonly items: readonly {
    readonly productId: string;
    readonly quantity: number;
    readonly price: number;
  }[];
}

/** An order as it is shown. */
export interface OrderView {
  readonly id: string;
  readonly status: string;
  readonly history: readonly string[];
  readonly [member: string]: unknown;
}

/** What a confirmed order has been through. */
export const CONFIRMED: readonly string[] = [
  "order.created",
  "inventory.reserved",
  "payment.processed",
  "shipment.created",
  "order.confirmed",
];

/** One millstone for Ada Lovelace. */
export function order(changes: Partial<OrderRequest> = {}): OrderRequest {
  return { customerId: "c-1", items: [{ productId: "p-1", quantity: 1, price: 19.5 }], ...changes };
}

/** Places an order and returns its id. */
export async function placeOrder(address: string, changes: Partial<OrderRequest> = {}): Promise<string> {
  const answer = await request(`${address}/orders`, { body: order(changes) });
  assert.equal(answer.status, 202, answer.text);
  return answer.body.orderId;
}

/** Waits until an order is confirmed or cancelled. If it does not come so far, says how the server is. */
export async function settledOrder(address: string, id: string, withinMs = 30_000): Promise<OrderView> {
  try {
    return await eventually(async () => {
      const { status, text, body } = await request(`${address}/queries/OrderById?orderId=${id}`);
      if (status === 200 && FINAL.includes(body?.status)) return body as OrderView;
      throw new Error(`${id}: ${status} ${text}`);
    }, { withinMs, everyMs: 50 });
  } catch (cause) {
    const health = await request(`${address}/health/ready`).then(({ text }) => text, String);
    throw new Error(`${cause instanceof Error ? cause.message : cause}\n${health}`, { cause });
  }
}

const FINAL = ["confirmed", "cancelled"];

/** Holds an answer against what a problem has to look like. */
export function assertProblem(answer: Answer, status: number, code: string): void {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers.get("content-type") ?? "", /^application\/problem\+json/);
  assert.equal(answer.body.status, status);
  assert.equal(answer.body.code, code, answer.text);
  assert.equal(answer.body.type, `urn:millstream:problem:${code}`);
  assert.ok(answer.body.title.length > 0 && answer.body.detail.length > 0, answer.text);
}
