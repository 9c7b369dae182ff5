import assert from "node:assert/strict";
import { test } from "node:test";
import * as v from "valibot";
import { command, type DispatchResult, event, type Millstream, millstream, refuse } from "../../mod.ts";
import type { Broker } from "../../src/ports/broker.ts";
import { aggregate } from "../../src/sourcing/aggregate.ts";
import { memoryStore } from "../../src/testing/mod.ts";
import { eventually } from "../support/wait.ts";

const Withdraw = command("account.withdraw", v.object({ account: v.string(), amount: v.number() }));
const Withdrawn = event("account.withdrawn", v.object({ account: v.string(), amount: v.number() }));
const Account = aggregate("account", {
  commands: [Withdraw],
  events: [Withdrawn],
  initial: () => ({ balance: 100 }),
  decide: {
    "account.withdraw": ({ data }, { balance }) =>
      data.amount > balance ? refuse("INSUFFICIENT_FUNDS") : [Withdrawn(data)],
  },
  evolve: { "account.withdrawn": ({ balance }, { data }) => ({ balance: balance - data.amount }) },
});
const Greet = command("greet", v.object({ name: v.string() }), { result: v.object({ text: v.string() }) });

interface Pair extends AsyncDisposable {
  readonly server: Millstream;
  readonly client: Millstream;
}

/** Two applications that share a broker, and nothing else. */
async function pair(
  prepare: (server: Millstream) => void,
  wrap: (broker: Broker) => Broker = (broker) => broker,
): Promise<Pair> {
  const shared = memoryStore();
  const server = millstream({ store: shared, broker: wrap(shared.broker()) }).use(Account, {
    id: ({ account }) => account,
  });
  prepare(server);
  const client = millstream({ broker: shared.broker() });
  await server.start();
  return {
    server,
    client,
    async [Symbol.asyncDispose]() {
      await client.close();
      await server.close();
    },
  };
}

test("a command that is sent runs where it is served, with its id, user and correlation", async () => {
  await using apps = await pair((server) => server.serve(Withdraw));
  const sent = await apps.client.send(Withdraw, { account: "a", amount: 40 }, {
    id: "w-1",
    userId: "alice",
    correlationId: "c-1",
  });
  assert.equal(sent.id, "w-1");
  const [stored] = await eventually(async () => {
    const events = await apps.server.store.events.readStream("account-a");
    return events.length > 0 && events;
  });
  const { causationid, correlationid, userid } = JSON.parse(stored!.body) as Record<string, string>;
  assert.deepEqual([causationid, correlationid, userid], ["w-1", "c-1", "alice"]);
});

test("a request gets the outcome that dispatch has there: result, stream, version and position", async () => {
  await using apps = await pair((server) =>
    server.handle(Greet, ({ data }) => ({ text: `Hello ${data.name}` })).serve(Greet).serve(Withdraw)
  );
  assert.deepEqual((await apps.client.request(Greet, { name: "Ann" })).result, { text: "Hello Ann" });
  const outcome: DispatchResult = await apps.client.request(Withdraw, { account: "a", amount: 1 }, {
    id: "w-1",
  });
  assert.deepEqual([outcome.id, outcome.stream, outcome.version], ["w-1", "account-a", 1]);
  assert.ok(outcome.position);
});

test("a request that is refused rejects with the refusal; it is no dead letter", async () => {
  await using apps = await pair((server) => server.serve(Withdraw));
  await assert.rejects(apps.client.request(Withdraw, { account: "a", amount: 101 }), {
    code: "REFUSED",
    details: { reason: "INSUFFICIENT_FUNDS" },
  });
  assert.equal(await apps.server.broker.deadLetters.count({}), 0);
});

test("a command that is refused with nobody waiting becomes a dead letter", async () => {
  await using apps = await pair((server) => server.serve(Withdraw));
  await apps.client.send(Withdraw, { account: "a", amount: 101 }, { id: "w-1" });
  const [letter] = await eventually(async () => {
    const letters = await apps.server.broker.deadLetters.list({ group: "handlers" }, { limit: 1 });
    return letters.length > 0 && letters;
  });
  assert.deepEqual([letter!.id, letter!.failure.error], ["w-1", "REFUSED"]);
});

test("fifty requests at once: each gets its own answer", async () => {
  await using apps = await pair((server) =>
    server.handle(Greet, ({ data }) => ({ text: data.name })).serve(Greet)
  );
  const names = Array.from({ length: 50 }, (_, n) => `n${n}`);
  const answers = await Promise.all(names.map((name) => apps.client.request(Greet, { name })));
  assert.deepEqual(answers.map(({ result }) => result.text), names);
});

test("nobody serves it: the request ends at its deadline and names its id; asked again under that id, it runs once", async () => {
  const shared = memoryStore();
  await using client = millstream({ broker: shared.broker() });
  await assert.rejects(client.request(Withdraw, { account: "a", amount: 60 }, { id: "w-1", waitMs: 50 }), {
    code: "DEADLINE_EXCEEDED",
    details: { id: "w-1", waitMs: 50 },
  });
  await using server = millstream({ store: shared, broker: shared.broker() });
  server.use(Account, { id: ({ account }) => account }).serve(Withdraw);
  await server.start();
  assert.equal((await client.request(Withdraw, { account: "a", amount: 60 }, { id: "w-1" })).version, 1);
  assert.equal((await shared.events.readStream("account-a")).length, 1);
});

test("the reply cannot be published: the command runs again, once in effect, and the request gets its answer", async () => {
  let refused = 0;
  let runs = 0;
  await using apps = await pair((server) =>
    server.handle(Greet, { once: true }, async ({ data }, ctx) => {
      runs++;
      await ctx.append("greetings", [Withdrawn({ account: data.name, amount: 1 })]);
      return { text: `Hello ${data.name}` };
    }).serve(Greet, { retry: { attempts: 5, baseMs: 1 } }), (broker) => ({
      ...broker,
      publish: async (topic, ...rest) => {
        if (topic === "replies" && refused++ < 2) throw new Error("broker is away");
        await broker.publish(topic, ...rest);
      },
    }));
  assert.deepEqual((await apps.client.request(Greet, { name: "Ann" })).result, { text: "Hello Ann" });
  assert.deepEqual([runs, refused], [1, 3]);
  assert.equal((await apps.server.store.events.readStream("greetings")).length, 1);
});

test("a request whose signal aborts rejects at once; serving what nothing handles is refused", async () => {
  await using client = millstream();
  const stop = new AbortController();
  const asked = client.request(Greet, { name: "Ann" }, { signal: stop.signal });
  stop.abort();
  await assert.rejects(asked, { code: "ABORTED" });
  assert.throws(() => client.serve(Greet), { code: "HANDLER_NOT_FOUND" });
  const bad = { name: 1 } as unknown as { name: string };
  await assert.rejects(client.send(Greet, bad), { code: "VALIDATION_FAILED" });
  await assert.rejects(client.request(Greet, { name: "Ann" }, { waitMs: 0 }), { code: "INVALID_ARGUMENT" });
});

test("a command that a handler sends goes out with its commit, once, under an id of its own; without the commit not at all", async () => {
  const Asked = event("withdrawal.asked", v.object({ account: v.string(), amount: v.number() }));
  let tries = 0;
  await using apps = await pair((server) =>
    server.serve(Withdraw).on(
      Asked,
      { group: "desk", retry: { attempts: 3, baseMs: 1 } },
      async ({ data }, ctx) => {
        await ctx.send(Withdraw, data);
        if (++tries < 3) throw new Error("after sending");
      },
    )
  );
  await apps.client.publish(Asked, { account: "a", amount: 1 }, { id: "m-1" });
  await eventually(async () => (await apps.server.store.events.readStream("account-a")).length > 0);
  await apps.client.request(Withdraw, { account: "b", amount: 1 }); // what else was sent is through by now
  assert.deepEqual([tries, (await apps.server.store.events.readStream("account-a")).length], [3, 1]);
});
