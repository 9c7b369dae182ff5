/** RabbitMQ when it fails, refuses, or talks to others; on a private server. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import amqplib from "amqplib";
import { rabbitmq } from "../../adapters/rabbitmq/mod.ts";
import { bindMessage } from "../../src/core/binding.ts";
import { decodeMessage } from "../../src/core/codec.ts";
import { startRabbitmq } from "../support/brokers.ts";
import { service } from "../support/require.ts";
import type { PrivateServer } from "../support/servers.ts";
import {
  type Candidate,
  message,
  refusesBadInput,
  rejectsWithin,
  survivesNetworks,
  survivesRestarts,
} from "./support/broker_faults.ts";

const { skip } = service("rabbitmq-server");
const server: PrivateServer | undefined = skip ? undefined : await startRabbitmq({
  config: ["max_message_size = 300000", `load_definitions = ${definitions()}`],
});
after(() => server?.stop());
const url = server?.url ?? "";

const candidate: Candidate = {
  name: "rabbitmq",
  server: server!,
  open: (url, options) => rabbitmq({ url, ...options }),
  address: ({ port = server?.port, password = "guest" } = {}) => `amqp://guest:${password}@127.0.0.1:${port}`,
};
const { node, bun, deno } = process.versions as Record<string, string | undefined>;
const isNode24 = Number(node?.split(".")[0]) >= 24 && !bun && !deno;
survivesRestarts(candidate, skip || (isNode24 ? false : "the server's restart is tested on one runtime"));
survivesNetworks(candidate, skip);
refusesBadInput(candidate, skip);

test("rabbitmq: an account that may not declare is refused, and so is a virtual host that does not exist", {
  skip,
}, async () => {
  const weak = rabbitmq({ url: url.replace("guest:guest", "weak:guest"), prefix: "weak" });
  await weak.ping();
  await rejectsWithin(10_000, () => weak.publish("orders", [message("m1")]), ["REJECTED"]);
  await rejectsWithin(10_000, () => weak.subscribe("orders", "billing"), ["REJECTED"]);
  await weak.ping();
  await weak[Symbol.asyncDispose]();
  const lost = rabbitmq({ url: `${url}/nowhere`, prefix: "weak" });
  await rejectsWithin(10_000, () => lost.ping(), ["REJECTED"]);
  await lost[Symbol.asyncDispose]();
});

test("rabbitmq: what is missing is not found where nothing may be made", { skip }, async () => {
  const broker = rabbitmq({ url, prefix: "missing", create: false });
  await rejectsWithin(10_000, () => broker.publish("orders", [message("m1")]), ["NOT_FOUND"]);
  await rejectsWithin(10_000, () => broker.subscribe("orders", "billing"), ["NOT_FOUND"]);
  await broker[Symbol.asyncDispose]();
});

test("rabbitmq: a message over the server's limit is refused, and others go on", { skip }, async () => {
  const broker = rabbitmq({ url, prefix: "large" });
  const group = await broker.subscribe("orders", "billing");
  const large = message("large", JSON.stringify("x".repeat(400_000)));
  const others = Array.from({ length: 20 }, (_, n) => broker.publish("orders", [message(`m${n}`)]));
  await rejectsWithin(10_000, () => broker.publish("orders", [large]), ["PAYLOAD_TOO_LARGE"]);
  await Promise.all(others);
  await rejectsWithin(10_000, () => broker.publish("orders", [large, message("m20")]), ["PAYLOAD_TOO_LARGE"]);
  const seen = new Set<string>();
  while (seen.size < 20) {
    const deliveries = await group.pull(50, { waitMs: 5_000 });
    for (const { id } of deliveries) seen.add(id);
    await group.ack(deliveries);
  }
  await broker[Symbol.asyncDispose]();
});

test(
  "rabbitmq: a topic without groups accepts what nobody gets, or refuses it where told to",
  { skip },
  async () => {
    const broker = rabbitmq({ url, prefix: "nobody" });
    await broker.publish("orders", [message("m1")]);
    await broker[Symbol.asyncDispose]();
    const strict = rabbitmq({ url, prefix: "nobody", withoutGroups: "refuse" });
    await rejectsWithin(10_000, () => strict.publish("orders", [message("m1")]), ["NOT_FOUND"]);
    await strict.subscribe("orders", "billing");
    await strict.publish("orders", [message("m1")]);
    await strict[Symbol.asyncDispose]();
  },
);

test(
  "rabbitmq: a queue that is deleted under a waiting consumer is made again, and reported",
  { skip },
  async () => {
    const seen: string[] = [];
    const broker = rabbitmq({ url, prefix: "gone", observer: ({ kind }) => seen.push(kind) });
    const group = await broker.subscribe("orders", "billing");
    const pulling = group.pull(1, { waitMs: 20_000 });
    const plain = await amqplib.connect(url);
    const channel = await plain.createChannel();
    while ((await channel.checkQueue("gone:orders:billing")).consumerCount === 0);
    await channel.deleteQueue("gone:orders:billing");
    while (!seen.includes("data-loss-suspected")) await new Promise((resolve) => setTimeout(resolve, 10));
    let taken = false;
    const publishing = (async () => {
      for (let n = 0; n < 100; n++) {
        await broker.publish("orders", [message(`m${n}`)]);
        await new Promise((resolve) => setTimeout(resolve, 50));
        if (taken) return;
      }
    })();
    assert.equal((await pulling).length, 1);
    taken = true;
    await publishing;
    await plain.close();
    await broker[Symbol.asyncDispose]();
  },
);

for (const mode of ["structured", "binary"] as const) {
  test(
    `rabbitmq: a plain client reads our CloudEvents and we read its, in ${mode} mode`,
    { skip },
    async () => {
      const broker = rabbitmq({ url, prefix: `ce-${mode}`, mode });
      const group = await broker.subscribe("orders", "billing");
      const plain = await amqplib.connect(url);
      const channel = await plain.createChannel();
      try {
        const { queue } = await channel.assertQueue("", { exclusive: true });
        await channel.bindQueue(queue, `ce-${mode}:orders`, "");
        await broker.publish("orders", [{ ...message("ours", '{"total": 42.0}'), key: "k" }]);
        let got: Awaited<ReturnType<typeof channel.get>> = false;
        while (!got) got = await channel.get(queue, { noAck: true });
        const { headers = {}, contentType } = got.properties;
        const text = got.content.toString();
        if (mode === "structured") {
          assert.match(contentType, /^application\/cloudevents\+json/);
          assert.deepEqual(JSON.parse(text).data, { total: 42 });
        } else {
          assert.equal(contentType, "application/json");
          assert.equal(text, '{"total": 42.0}');
          assert.equal(headers["cloudEvents:specversion"], "1.0");
          assert.equal(headers["cloudEvents:id"], "ours");
          assert.equal(headers["cloudEvents:source"], "/shop");
          assert.equal(headers["cloudEvents:partitionkey"], "k");
        }
        await group.ack(await group.pull(10, { waitMs: 5_000 }));

        const theirs = bindMessage(message("theirs", '{"a": [1]}'), mode);
        const named = Object.entries(theirs.attributes).map((
          [name, value],
        ) => [`cloudEvents_${name}`, value]);
        const options = mode === "structured" ? {} : { headers: Object.fromEntries(named) };
        channel.publish(`ce-${mode}:orders`, "", Buffer.from(theirs.body), {
          contentType: theirs.contentType,
          ...options,
        });
        const [delivery] = await group.pull(1, { waitMs: 10_000 });
        assert.ok(delivery);
        assert.deepEqual([delivery.id, delivery.type], ["theirs", "order.placed"]);
        assert.deepEqual(decodeMessage(delivery.body).data, { a: [1] });
      } finally {
        await plain.close();
        await broker[Symbol.asyncDispose]();
      }
    },
  );
}

/** Users of the server: `guest`, and `weak` who may configure and write nothing. */
function definitions(): string {
  const salt = Buffer.from("00000001", "hex");
  const hash = createHash("sha256").update(Buffer.concat([salt, Buffer.from("guest")])).digest();
  const password_hash = Buffer.concat([salt, hash]).toString("base64");
  const user = (name: string) => ({
    name,
    password_hash,
    hashing_algorithm: "rabbit_password_hashing_sha256",
    tags: "",
  });
  const may = (user: string, what: string) => ({
    user,
    vhost: "/",
    configure: what,
    write: what,
    read: ".*",
  });
  const file = join(mkdtempSync(join(tmpdir(), "definitions-")), "definitions.json");
  writeFileSync(
    file,
    JSON.stringify({
      users: [user("guest"), user("weak")],
      vhosts: [{ name: "/" }],
      permissions: [may("guest", ".*"), may("weak", "^$")],
    }),
  );
  return file;
}
