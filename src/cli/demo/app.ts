/**
 * The demo application: orders from the command to the read model, and GitHub's webhooks.
 *
 * @module
 */
import { type Broker, type Millstream, millstream, type Observation, type Store } from "../../../mod.ts";
import { Fulfilment, type FulfilmentData, fulfilmentStream } from "./fulfilment.ts";
import { countWebhook, GitHub, GITHUB_GROUP, GitHubActivity, readActivity } from "./github.ts";
import { Order, OrderCreated } from "./order.ts";
import { createTables, OrderById, Orders, OrdersByCustomer, readOrder, readOrders } from "./order_view.ts";

/** The demo. */
export interface Demo {
  readonly app: Millstream;
  /** Ids of the messages that this process gave up. */
  readonly deadLetters: ReadonlySet<string>;
}

/** Assembles the demo. */
export function demo(
  options: { readonly store: Store; readonly broker: Broker | undefined },
  tell: (observation: Observation) => void,
): Demo {
  const deadLetters = new Set<string>();
  const app = millstream({
    store: options.store,
    ...(options.broker ? { broker: options.broker } : {}),
    source: "/millstream/demo",
    observer(observation) {
      if (observation.kind === "dead-lettered") deadLetters.add(observation.id);
      tell(observation);
    },
  });

  app.use(Order, { id: ({ orderId }) => orderId })
    .use(Orders)
    .use(Fulfilment, {
      startOn: OrderCreated,
      id: ({ data }) => `fulfilment-${data.orderId}`,
      data: ({ data }) => data as FulfilmentData,
    })
    .answer(OrderById, { after: [Orders] }, ({ orderId }, { sql }) => readOrder(sql, orderId))
    .answer(OrdersByCustomer, { after: [Orders] }, ({ customerId }, { sql }) => readOrders(sql, customerId))
    .on(GitHub, { group: GITHUB_GROUP, concurrency: 16 }, countWebhook)
    .answer(GitHubActivity, ({ repository }, { sql }) => readActivity(sql, repository));
  return { app, deadLetters };
}

/** Makes the demo's tables and starts it. */
export async function startDemo({ app }: Demo): Promise<void> {
  await app.store.start();
  await app.store.transaction(({ sql }) => createTables(sql));
  await app.start();
}

/** Where the store stands for this order, so that a query can wait for it: whatever was written to it before is seen. */
export async function orderPosition({ store }: Millstream, orderId: string): Promise<string | undefined> {
  const last = await Promise.all(
    [`order-${orderId}`, fulfilmentStream(orderId)].map((stream) =>
      store.events.readStream(stream, { backwards: true, limit: 1 })
    ),
  );
  const positions = last.flat().map(({ position }) => position);
  return positions.length === 0 ? undefined : positions.reduce((a, b) => a > b ? a : b).toString();
}
