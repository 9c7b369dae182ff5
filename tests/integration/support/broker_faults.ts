/**
 * What any broker behind an adapter has to survive, and what it has to refuse.
 *
 * @module
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isMillstreamError } from "../../../src/core/errors.ts";
import type { Broker } from "../../../src/ports/broker.ts";
import type { EncodedMessage } from "../../../src/core/message.ts";
import { startScript } from "../../support/process.ts";
import { startProxy } from "../../support/proxy.ts";
import { scale } from "../../support/scale.ts";
import type { PrivateServer } from "../../support/servers.ts";
import { eventually, pause } from "../../support/wait.ts";

/** A broker to be tried. */
export interface Candidate {
  readonly name: string;
  readonly server: PrivateServer;
  /** Makes a broker for an address. */
  open(url: string, options: { readonly prefix: string; readonly timeoutMs?: number }): Broker;
  /** The server's address with another port, or password. */
  address(changes?: { readonly port?: number; readonly password?: string }): string;
}

const CONSUMER = new URL("./broker_consumer.ts", import.meta.url);

/** The server is killed twice while messages are published, and consumers are killed all the time. */
export function survivesRestarts({ name, server, open, address }: Candidate, skip: string | false): void {
  test(`${name}: two kills of the server and three of consumers during publishes lose nothing`, {
    skip,
    timeout: 600_000,
  }, async () => {
    const count = Math.round(1_000 * scale);
    const prefix = "restarts";
    const broker = open(address(), { prefix });
    const handled = new Map<string, number>();
    const start = () => startScript(CONSUMER, { args: [address(), prefix, "orders", "billing", "1000"] });
    let consumer = start();
    const read = () => {
      for (const [, id = ""] of consumer.output().matchAll(/^handled (\S+)$/gm)) {
        handled.set(id, (handled.get(id) ?? 0) + 1);
      }
    };
    try {
      await consumer.line("joined", { withinMs: 60_000 });
      await pause(2_000); // see rabbitmq-server#10070 about queues that are killed too young
      const faults = new Map<number, () => Promise<void>>();
      const killServer = async (): Promise<void> => {
        await server.kill9();
        await server.restart();
      };
      const killConsumer = async (): Promise<void> => {
        await consumer.kill9();
        read();
        consumer = start();
      };
      [killConsumer, killServer, killConsumer, killServer, killConsumer].forEach((fault, at) =>
        faults.set(Math.round(count * (at + 1) / 6), fault)
      );
      let indeterminate = 0;
      let next = 0;
      const acknowledged: string[] = [];
      const publishers = Array.from({ length: 10 }, async () => {
        while (next < count) {
          const id = `m${next++}`;
          const fault = faults.get(Number(id.slice(1)));
          const happening = fault?.();
          await eventually(async () => {
            try {
              await broker.publish("orders", [message(id)]);
              return true;
            } catch (error) {
              assert.ok(isMillstreamError(error) && error.retryable, String(error));
              if (error.code === "PUBLISH_INDETERMINATE") indeterminate++;
              return false;
            }
          }, { withinMs: 120_000 });
          acknowledged.push(id);
          await happening;
        }
      });
      await Promise.all(publishers);
      assert.equal(acknowledged.length, count);
      await eventually(() => {
        const text = consumer.output();
        const seen = new Set(handled.keys());
        for (const [, id = ""] of text.matchAll(/^handled (\S+)$/gm)) seen.add(id);
        return acknowledged.every((id) => seen.has(id));
      }, { withinMs: 120_000, everyMs: 200 });
      await consumer.kill9();
      read();
      const repeats = [...handled.values()].reduce((sum, times) => sum + times - 1, 0);
      console.log(
        `# ${name}: ${count} acknowledged through 2 kills of the server and 3 of the consumer, ${handled.size} handled, ` +
          `${indeterminate} publishes repeated, ${repeats} deliveries repeated`,
      );
      const after = await broker.subscribe("orders", "billing");
      await eventually(async () => {
        await after.ack(await after.pull(100, { waitMs: 200 }));
        const { ready, inFlight } = await after.lag();
        return ready + inFlight === 0;
      }, { withinMs: 60_000 });
      assert.equal(await broker.deadLetters.count({ topic: "orders" }), 0);
    } finally {
      await consumer.kill9();
      await broker[Symbol.asyncDispose]();
    }
  });
}

/** The network between the application and the server fails. */
export function survivesNetworks({ name, server, open, address }: Candidate, skip: string | false): void {
  test(`${name}: connections that are cut again and again while it publishes and handles lose nothing`, {
    skip,
    timeout: 120_000,
  }, async () => {
    await using proxy = await startProxy(server.port);
    const broker = open(address({ port: proxy.port }), { prefix: "cut", timeoutMs: 2_000 });
    const count = Math.round(200 * scale);
    let done = false;
    const cutting = (async () => {
      while (!done) {
        await pause(300);
        proxy.resetAll();
      }
    })();
    const handled = new Set<string>();
    const consuming = (async () => {
      while (handled.size < count && !done) {
        try {
          const subscription = await broker.subscribe("orders", "billing", { leaseMs: 2_000 });
          while (handled.size < count && !done) {
            const deliveries = await subscription.pull(20, { waitMs: 200 });
            for (const { id } of deliveries) handled.add(id);
            await subscription.ack(deliveries);
          }
          await subscription[Symbol.asyncDispose]();
        } catch (error) {
          assert.ok(isMillstreamError(error) && error.retryable, String(error));
        }
      }
    })();
    try {
      const joined = await eventually(() => broker.subscribe("orders", "billing").catch(() => false), {
        withinMs: 30_000,
      });
      await (joined as AsyncDisposable)[Symbol.asyncDispose]();
      for (let n = 0; n < count; n++) {
        await eventually(() =>
          broker.publish("orders", [message(`m${n}`)]).then(() => true, (error) => {
            assert.ok(isMillstreamError(error) && error.retryable, String(error));
            return false;
          }), { withinMs: 60_000, everyMs: 5 });
      }
      await eventually(() => handled.size === count, { withinMs: 60_000 });
      console.log(`# ${name}: ${count} acknowledged and handled through ${proxy.accepted} connections`);
    } finally {
      done = true;
      await cutting;
      await consuming;
      await broker[Symbol.asyncDispose]();
    }
  });

  test(
    `${name}: a server that says nothing is unavailable within the deadline, and is used when it is back`,
    {
      skip,
      timeout: 60_000,
    },
    async () => {
      await using proxy = await startProxy(server.port, { mode: "blackhole" });
      const broker = open(address({ port: proxy.port }), { prefix: "hole", timeoutMs: 700 });
      try {
        for (const call of calls(broker)) await rejectsWithin(8_000, call, ["UNAVAILABLE"]);
        await proxy.set("pass");
        await eventually(() => broker.ping().then(() => true), { withinMs: 20_000 });
        await broker.subscribe("orders", "billing");
        await proxy.set("blackhole");
        const publishing = () => broker.publish("orders", [message("m1")]);
        await rejectsWithin(8_000, publishing, ["PUBLISH_INDETERMINATE", "UNAVAILABLE"]);
        await proxy.set("pass");
        await eventually(() => publishing().then(() => true), { withinMs: 20_000 });
      } finally {
        await proxy.set("pass");
        await broker[Symbol.asyncDispose]();
      }
    },
  );
}

/** What is wrong is said at once, in one family of errors. */
export function refusesBadInput(
  { name, open, address }: Candidate,
  skip: string | false,
  skipWithServer: string | false = skip,
): void {
  test(
    `${name}: an address that is none is refused before any connection, without showing it`,
    { skip },
    () => {
      for (const url of ["", "http://x", "user:secret@host", "not a url"]) {
        assert.throws(() => open(url, { prefix: "bad" }), (error) => {
          assert.ok(isMillstreamError(error, "INVALID_ARGUMENT"), String(error));
          assert.doesNotMatch(error.message, /secret/);
          return true;
        });
      }
    },
  );

  test(
    `${name}: nobody at the address is unavailable, a wrong password is refused for good`,
    { skip: skipWithServer },
    async () => {
      const nobody = open(address({ port: 1 }), { prefix: "bad", timeoutMs: 2_000 });
      for (const call of calls(nobody)) await rejectsWithin(10_000, call, ["UNAVAILABLE"]);
      await nobody[Symbol.asyncDispose]();
      const stranger = open(address({ password: "wrong" }), { prefix: "bad", timeoutMs: 2_000 });
      for (const call of calls(stranger)) await rejectsWithin(10_000, call, ["REJECTED"]);
      await stranger[Symbol.asyncDispose]();
    },
  );
}

/** Calls a broker in every way that needs the server. */
function calls(broker: Broker): ReadonlyArray<() => Promise<unknown>> {
  return [
    () => broker.ping(),
    () => broker.publish("orders", [message("m1")]),
    () => broker.subscribe("orders", "billing"),
    () => broker.deadLetters.list({ topic: "orders", group: "billing" }, { limit: 1 }),
    () => broker.groups(),
  ];
}

/** Rejects in time, with one of these codes. */
export async function rejectsWithin(
  ms: number,
  call: () => Promise<unknown>,
  codes: readonly string[],
): Promise<void> {
  const start = performance.now();
  await assert.rejects(call(), (error) => {
    assert.ok(isMillstreamError(error) && codes.includes(error.code), `${String(error)}, expected ${codes}`);
    return true;
  });
  assert.ok(performance.now() - start < ms, `it took ${performance.now() - start} ms`);
}

/** A message with an order. */
export function message(id: string, data = "{}"): EncodedMessage {
  const attributes = `"specversion":"1.0","id":"${id}","source":"/shop","type":"order.placed"`;
  return { id, type: "order.placed", body: `{${attributes},"data":${data}}` };
}
