/** NATS JetStream when it fails, refuses, or talks to others; on a private server. */
import assert from "node:assert/strict";
import process from "node:process";
import { after, test } from "node:test";
import { jetstream, jetstreamManager } from "@nats-io/jetstream";
import { connect, headers } from "@nats-io/transport-node";
import { nats } from "../../adapters/nats/mod.ts";
import { bindMessage } from "../../src/core/binding.ts";
import { decodeMessage } from "../../src/core/codec.ts";
import { startNats } from "../support/brokers.ts";
import { service } from "../support/require.ts";
import type { PrivateServer } from "../support/servers.ts";
import { eventually } from "../support/wait.ts";
import {
  type Candidate,
  message,
  refusesBadInput,
  rejectsWithin,
  survivesNetworks,
  survivesRestarts,
} from "./support/broker_faults.ts";

const { skip } = service("nats-server");
const server: PrivateServer | undefined = skip ? undefined : await startNats({
  config: [
    'authorization { users = [{ user: "us", password: "ours" },',
    '  { user: "weak", password: "ours", permissions: { publish: ["nothing.>"], subscribe: ["_INBOX.>"] } }] }',
  ],
});
after(() => server?.stop());
const account = { user: "us", pass: "ours", servers: server?.url.replace("nats://", "") ?? "" };
const address: Candidate["address"] = ({ port = server?.port, password = "ours" } = {}) =>
  `nats://us:${password}@127.0.0.1:${port}`;

const candidate: Candidate = {
  name: "nats",
  server: server!,
  open: (url, options) => nats({ url, ackWaitMs: 1_000, ...options }),
  address,
};
const { node, bun, deno } = process.versions as Record<string, string | undefined>;
const isNode24 = Number(node?.split(".")[0]) >= 24 && !bun && !deno;
survivesRestarts(candidate, skip || (isNode24 ? false : "the server's restart is tested on one runtime"));
// The error of a connection that is reset reaches nobody there: @nats-io/transport-node 3.4.0 on Deno 2.9. The server
// also resets connections whose password is wrong.
const noResets = skip || (deno ? "transport-node lets the error of a reset go unhandled on Deno" : false);
survivesNetworks(candidate, noResets);
refusesBadInput(candidate, skip, noResets);

test(
  "nats: an account that may not publish is refused or told that nobody answers, in time",
  { skip },
  async () => {
    const weak = nats({ url: address().replace("us:", "weak:"), prefix: "weak", timeoutMs: 1_500 });
    await rejectsWithin(10_000, () => weak.publish("orders", [message("m1")]), ["REJECTED", "UNAVAILABLE"]);
    await rejectsWithin(10_000, () => weak.subscribe("orders", "billing"), ["REJECTED", "UNAVAILABLE"]);
    await weak[Symbol.asyncDispose]();
  },
);

test("nats: what is missing is not found where nothing may be made", { skip }, async () => {
  const broker = nats({ url: address(), prefix: "missing", create: false });
  await rejectsWithin(10_000, () => broker.publish("orders", [message("m1")]), ["NOT_FOUND"]);
  await rejectsWithin(10_000, () => broker.subscribe("orders", "billing"), ["NOT_FOUND"]);
  await broker[Symbol.asyncDispose]();
});

test(
  "nats: a message over the server's or the stream's limit is refused, and others go on",
  { skip },
  async () => {
    const broker = nats({ url: address(), prefix: "large", stream: { max_msg_size: 1_000 } });
    const large = (bytes: number) => message("large", JSON.stringify("x".repeat(bytes)));
    await rejectsWithin(10_000, () => broker.publish("orders", [large(2_000_000)]), ["PAYLOAD_TOO_LARGE"]);
    await rejectsWithin(10_000, () => broker.publish("orders", [large(2_000)]), ["PAYLOAD_TOO_LARGE"]);
    await broker.publish("orders", [message("m1")]);
    await broker[Symbol.asyncDispose]();
  },
);

test("nats: a full stream refuses for now, and one with other limits is not used", { skip }, async () => {
  const broker = nats({ url: address(), prefix: "full", stream: { max_msgs: 2 } });
  await broker.publish("orders", [message("m1"), message("m2")]);
  await rejectsWithin(10_000, () => broker.publish("orders", [message("m3")]), ["OVERLOADED"]);
  const other = nats({ url: address(), prefix: "full", stream: { max_msgs: 3 } });
  await rejectsWithin(10_000, () => other.publish("orders", [message("m3")]), ["REJECTED"]);
  await broker[Symbol.asyncDispose]();
  await other[Symbol.asyncDispose]();
});

test(
  "nats: a group that is deleted under its consumer begins again at the start, and is reported",
  { skip },
  async () => {
    const seen: string[] = [];
    const broker = nats({ url: address(), prefix: "gone", observer: ({ kind }) => seen.push(kind) });
    const group = await broker.subscribe("orders", "billing", { from: "now" });
    await broker.publish("orders", [message("m1")]);
    await group.ack(await group.pull(1, { waitMs: 5_000 }));
    const plain = await connect(account);
    const pulling = group.pull(1, { waitMs: 20_000 });
    const manager = await jetstreamManager(plain);
    await eventually(async () =>
      (await manager.consumers.info("gone=topic=orders", "billing")).num_waiting > 0
    );
    // The server may stumble over the consumer's folder, which is still written to; the consumer is gone all the same.
    await manager.consumers.delete("gone=topic=orders", "billing").catch(() => {});
    assert.deepEqual((await pulling).map(({ id }) => id), ["m1"]);
    assert.deepEqual(seen, ["data-loss-suspected"]);
    await plain.close();
    await broker[Symbol.asyncDispose]();
  },
);

test("nats: a connection of the application's own is used and left open", { skip }, async () => {
  const plain = await connect(account);
  const broker = nats({ connection: plain, prefix: "own" });
  const group = await broker.subscribe("orders", "billing");
  await broker.publish("orders", [message("m1")]);
  assert.deepEqual((await group.pull(1, { waitMs: 5_000 })).map(({ id }) => id), ["m1"]);
  await broker[Symbol.asyncDispose]();
  assert.equal(plain.isClosed(), false);
  await plain.close();
});

for (const mode of ["structured", "binary"] as const) {
  test(`nats: a plain client reads our CloudEvents and we read its, in ${mode} mode`, { skip }, async () => {
    const broker = nats({ url: address(), prefix: `ce-${mode}`, mode });
    const group = await broker.subscribe("orders", "billing");
    const plain = await connect(account);
    const js = jetstream(plain);
    try {
      await broker.publish("orders", [{ ...message("ours ü", '{"total": 42.0}'), key: "k" }]);
      const consumer = await js.consumers.get(`ce-${mode}=topic=orders`);
      const got = await consumer.next({ expires: 5_000 });
      assert.ok(got);
      if (mode === "structured") {
        assert.match(got.headers?.get("content-type") ?? "", /^application\/cloudevents\+json/);
        assert.deepEqual(got.json<{ data: unknown }>().data, { total: 42 });
      } else {
        assert.equal(got.headers?.get("content-type"), "application/json");
        assert.equal(got.string(), '{"total": 42.0}');
        assert.equal(got.headers?.get("ce-specversion"), "1.0");
        assert.equal(decodeURIComponent(got.headers?.get("ce-id") ?? ""), "ours ü");
        assert.equal(got.headers?.get("ce-partitionkey"), "k");
      }
      await group.ack(await group.pull(10, { waitMs: 5_000 }));

      const theirs = bindMessage(message("theirs", '{"a": [1]}'), mode);
      const written = headers();
      written.set("content-type", theirs.contentType);
      if (mode === "binary") {
        for (const [name, value] of Object.entries(theirs.attributes)) written.set(`ce-${name}`, value);
      }
      await js.publish(`ce-${mode}.orders`, theirs.body, { headers: written });
      const [delivery] = await group.pull(1, { waitMs: 10_000 });
      assert.ok(delivery);
      assert.deepEqual([delivery.id, delivery.type], ["theirs", "order.placed"]);
      assert.deepEqual(decodeMessage(delivery.body).data, { a: [1] });
    } finally {
      await plain.close();
      await broker[Symbol.asyncDispose]();
    }
  });
}
