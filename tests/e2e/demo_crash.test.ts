import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { eventually, pause } from "../support/wait.ts";
import { type Cli, startDemo, temporaryFolder, toldToEnd } from "./support/cli.ts";
import { follow, request } from "./support/http.ts";
import { type Acknowledged, postMessage, postUntil, REPOSITORY } from "./support/load.ts";
import { placeOrder, settledOrder } from "./support/orders.ts";
import { seeded } from "./support/random.ts";

const data = temporaryFolder(); // of both tests: making a database takes longer than either
const ROUNDS = 3;
const SEED = 20_260_101;

describe("the demo on the embedded default, killed while orders and messages come in", () => {
  test("has lost nothing it acknowledged, and done nothing twice", async () => {
    const random = seeded(SEED);
    const acknowledged: Acknowledged = { orders: [], messages: [] };
    for (let round = 0; round < ROUNDS; round++) {
      await using demo = await startDemo({ data });
      // The first is killed in the middle of a saga, the others while they take over what it left.
      const busy = round === 0 ? () => halfWay(demo) : () => pause(random() * 500);
      await killWhilePosting(demo, acknowledged, { prefix: `r${round}`, busy });
    }
    assert.ok(acknowledged.orders.length >= ROUNDS, `${acknowledged.orders.length} orders`);
    assert.ok(acknowledged.messages.length >= ROUNDS, `${acknowledged.messages.length} messages`);

    await using demo = await startDemo({ data });
    await assertOrdersComplete(demo, acknowledged.orders);
    await assertMessagesComplete(demo, acknowledged.messages);
    assert.deepEqual(await toldToEnd(demo), { code: 0, signal: null }, demo.process.output());
  });

  test("finds everything again after it was told to end and started anew", async () => {
    const first = await startDemo({ data });
    await placeOrder(first.address, { orderId: "kept" });
    const before = await settledOrder(first.address, "kept");
    assert.deepEqual(await toldToEnd(first), { code: 0, signal: null }, first.process.output());

    await using second = await startDemo({ data });
    const after = await request(`${second.address}/orders/kept`);
    assert.deepEqual(after.body, before);
    await placeOrder(second.address, { orderId: "new" });
    assert.equal((await settledOrder(second.address, "new")).status, "confirmed");
  });
});

interface Kill {
  readonly prefix: string;
  /** Waits for the moment of death. */
  readonly busy: () => Promise<void>;
}

/** Lets it take some, waits for the moment, and kills it in the middle of the next. */
async function killWhilePosting(demo: Cli, acknowledged: Acknowledged, kill: Kill): Promise<void> {
  const { prefix, busy } = kill;
  const stop = new AbortController();
  const { orders, messages } = acknowledged;
  const before = [orders.length, messages.length] as const;
  const posting = postUntil(demo.address, acknowledged, { prefix, clients: [4, 8], signal: stop.signal });
  try {
    const taken = eventually(() => orders.length > before[0] && messages.length > before[1]);
    await Promise.race([taken, posting]); // which rejects if a request fails before its time
    await busy();
  } finally {
    stop.abort();
    await demo.process.kill9();
    await posting;
  }
}

/** Waits until an order has taken the first step of its saga; three more are to come. */
async function halfWay({ address }: Cli): Promise<void> {
  await follow(
    `${address}/topics/order/events?from=now&types=inventory.reserved`,
    (events) => events.length > 0,
  );
}

async function assertOrdersComplete({ address }: Cli, ids: readonly string[]): Promise<void> {
  for (const id of ids) {
    const { history, customerId, status } = await settledOrder(address, id);
    assert.deepEqual([...new Set(history)], history, `${id} has an event twice`);
    assert.equal(status, customerId === "c-5" ? "cancelled" : "confirmed", id);
    for (const stream of [`order-${id}`, `fulfilment-${id}`]) {
      const { body } = await request(`${address}/streams/${stream}`);
      const types = body.events.map(({ type }: { type: string }) => type);
      assert.deepEqual([...new Set(types)], types, `${stream} has an event twice`);
    }
  }
}

async function assertMessagesComplete({ address }: Cli, ids: readonly string[]): Promise<void> {
  for (const id of ids) assert.equal(await postMessage(address, id), 202); // as from a client that is not sure
  await postMessage(address, "last-but-one");
  const log = await follow(
    `${address}/topics/github/events?from=start`,
    (events) => events.some(({ data }) => JSON.parse(data).id === "last-but-one"),
  );
  // What was taken without an acknowledgement is there as well, and counts.
  const all = new Set(log.map(({ data }) => JSON.parse(data).id));
  assert.deepEqual(ids.filter((id) => !all.has(id)), [], "acknowledged messages are not in the log");

  const counted = async () => {
    const { body } = await request(`${address}/queries/GitHubActivity?repository=${REPOSITORY}`);
    return body[0]?.total ?? 0;
  };
  await eventually(async () => {
    const total = await counted();
    if (total < all.size) throw new Error(`${total} of ${all.size} messages are counted`);
  }, { withinMs: 40_000 });
  await postMessage(address, "last"); // one more round through everything: whatever came twice has been counted by then
  await eventually(async () => await counted() > all.size);
  assert.equal(await counted(), all.size + 1, "a message is counted twice");
}
