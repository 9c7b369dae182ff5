import assert from "node:assert/strict";
import { test } from "node:test";
import { topic } from "../../src/core/definition.ts";
import { brokerMemory } from "../../src/memory/broker.ts";
import { virtualClock } from "../../src/testing/mod.ts";
import { Ping, Pong, until, world } from "./messaging_fixture.ts";

test("every instance hears what is published from its start on, in order, whatever groups do", async () => {
  const clock = virtualClock();
  const memory = brokerMemory({ clock });
  const heard: string[][] = [[], []];
  const instances = [0, 1].map((index) => {
    const { app } = world({ broker: () => memory.connect() }, clock);
    return app.onEveryInstance(Ping, ({ data }) => void heard[index]!.push(`ping ${data.n}`));
  });
  instances[0]!.on(Ping, { group: "g" }, () => {});
  await instances[0]!.publish(Ping, { n: 0 });
  await instances[0]!.start();
  await instances[0]!.publish(Ping, { n: 1 });
  await instances[1]!.start();
  await instances[0]!.publish(Ping, { n: 2 });
  await instances[0]!.publish(Ping, { n: 3 });
  await until(clock, () => heard[0]!.length === 3 && heard[1]!.length === 2);
  await clock.advance(10_000);
  assert.deepEqual(heard, [["ping 1", "ping 2", "ping 3"], ["ping 2", "ping 3"]]);
  assert.deepEqual((await instances[0]!.health()).ready, true);
  for (const app of instances) await app.close();
});

test("a listener that fails and bytes that are no message are observed, and what follows is heard", async () => {
  const { app, clock, of } = world();
  const heard: string[] = [];
  app.onEveryInstance(topic("ping"), ({ type, id }) => {
    heard.push(type);
    if (id === "bad") throw new Error("no");
  });
  await app.start();
  await app.publish(Ping, { n: 1 }, { id: "bad" });
  await app.broker.publish("ping", [{ id: "x", type: "ping.sent", body: "{" }]);
  await app.publish(Ping, { n: 2 });
  await app.publish(Pong, { n: 3 });
  await until(clock, () => heard.length === 2);
  await clock.advance(5_000);
  assert.deepEqual(heard, ["ping.sent", "ping.sent"]);
  assert.deepEqual(of("loop-failed").map(({ loop }) => loop), ["broadcast ping", "broadcast ping"]);
  await app.close();
});

test("listening is refused where the broker keeps no log", async () => {
  const { app } = world({
    broker: (store) => {
      const { log: _, ...broker } = store.broker();
      return broker;
    },
  });
  assert.throws(() => app.onEveryInstance(Ping, () => {}), { code: "UNSUPPORTED" });
  await app.close();
});
