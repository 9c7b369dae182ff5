/**
 * Orders and topic messages, posted until somebody says stop, and the memory of what was acknowledged.
 *
 * @module
 */
import { request } from "./http.ts";
import { order } from "./orders.ts";

/** What has a 202. What has none may have been taken all the same. */
export interface Acknowledged {
  readonly orders: string[];
  readonly messages: string[];
}

/** Repository that the topic messages are about. */
export const REPOSITORY = "millstream/crash";

/** Options of {@linkcode postUntil}. */
export interface LoadOptions {
  /** Begins every id. */
  readonly prefix: string;
  /** Clients that post at the same time: of orders, and of messages. */
  readonly clients: readonly [orders: number, messages: number];
  /** Ends it. A failed request while it is not aborted is an error. */
  readonly signal: AbortSignal;
  /** Told of each acknowledgement. */
  readonly onAcknowledged?: () => void;
}

/** Posts until the signal is aborted. Every fourth order cannot be paid. */
export async function postUntil(
  address: string,
  acknowledged: Acknowledged,
  { prefix, clients: [orders, messages], signal, onAcknowledged = () => {} }: LoadOptions,
): Promise<void> {
  let count = 0;
  const repeat = async (post: (id: string) => Promise<number>, into: string[]) => {
    while (!signal.aborted) {
      const id = `${prefix}-${count++}`;
      const status = await post(id).catch((error) => {
        if (signal.aborted) return undefined;
        throw error;
      });
      if (status !== 202 && !signal.aborted) throw new Error(`${id} was answered with ${status}`);
      if (status !== 202) continue;
      into.push(id);
      onAcknowledged();
    }
  };
  const postOrder = async (orderId: string) => {
    const customerId = count % 4 === 0 ? "c-5" : "c-1";
    return (await request(`${address}/orders`, { body: order({ orderId, customerId }) })).status;
  };
  await Promise.all([
    ...Array.from({ length: orders }, () => repeat(postOrder, acknowledged.orders)),
    ...Array.from(
      { length: messages },
      () => repeat((id) => postMessage(address, id), acknowledged.messages),
    ),
  ]);
}

/** Posts one message to the topic of webhooks. */
export async function postMessage(address: string, id: string): Promise<number> {
  const headers = { "ce-specversion": "1.0", "ce-id": id, "ce-type": "crash.tested", "ce-source": "/tests" };
  const body = { repository: { full_name: REPOSITORY } };
  return (await request(`${address}/topics/github`, { body, headers })).status;
}
