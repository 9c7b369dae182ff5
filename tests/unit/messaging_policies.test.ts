import assert from "node:assert/strict";
import { test } from "node:test";
import { MillstreamError, refuse } from "../../src/core/errors.ts";
import { gate, Ping, until, world } from "./messaging_fixture.ts";

class Busy extends Error {
  override readonly name = "Busy";
}

test("each error has the attempts and the pauses of the first rule that means it, and the rest those of the consumer", async () => {
  const { app, clock, of } = world();
  const errors: Array<() => Error> = [
    () => new Busy("busy"),
    () => Object.assign(new Error("down"), { code: "ECONNRESET" }),
    () => Object.assign(new Error("gone"), { status: 410 }),
    () => new TypeError("other"),
    () => refuse("NOT_YET"),
  ];
  app.on(Ping, {
    group: "g",
    retry: { attempts: 3, baseMs: 100, factor: 1 },
    retryOn: [
      { error: "Busy", attempts: 5, baseMs: 1_000 },
      { error: "ECONNRESET", attempts: 2 },
      { error: (error) => (error as { status?: number }).status === 410, attempts: 1 },
      { error: "REFUSED", attempts: 4 },
    ],
  }, ({ data }) => {
    throw errors[data.n]!();
  });
  await app.start();
  const ids: string[] = [];
  for (let n = 0; n < errors.length; n++) ids.push((await app.publish(Ping, { n })).id);
  await until(clock, () => of("dead-lettered").length === errors.length, 1_000);
  const attempts = new Map(of("dead-lettered").map(({ id, attempt }) => [id, attempt]));
  assert.deepEqual(ids.map((id) => attempts.get(id)), [5, 2, 1, 3, 4]);
  const pauses = (n: number) => of("retried").filter(({ id }) => id === ids[n]).map(({ delayMs }) => delayMs);
  assert.deepEqual([pauses(0), pauses(1), pauses(3)], [[500, 500, 500, 500], [50], [50, 50]]);
  await app.close();
});

test("bytes that cannot be read are not tried again, whatever a rule says, and a rule that throws means nothing", async () => {
  const { app, clock, of } = world();
  app.on(Ping, {
    group: "g",
    retry: { attempts: 2, baseMs: 1 },
    retryOn: [
      {
        error: () => {
          throw new Error("a broken rule");
        },
        attempts: 9,
      },
      { error: "MALFORMED_MESSAGE", attempts: 9 },
    ],
  }, () => {
    throw new Error("no");
  });
  await app.start();
  await app.broker.publish("ping", [{ id: "x", type: "ping.sent", body: "{" }]);
  await app.publish(Ping, { n: 1 });
  await until(clock, () => of("dead-lettered").length === 2);
  assert.deepEqual(of("dead-lettered").map(({ attempt }) => attempt), [1, 2]);
  await app.close();
});

test("no more messages begin in any window than the rate allows, and none is lost by it", async () => {
  const { app, clock } = world();
  const begun: number[] = [];
  app.on(Ping, { group: "g", rate: { max: 5, perMs: 1_000 } }, () => void begun.push(clock.monotonic()));
  await app.start();
  for (let n = 0; n < 23; n++) await app.publish(Ping, { n });
  await clock.advance(10_000);
  assert.equal(begun.length, 23);
  for (const start of begun) {
    const inWindow = begun.filter((at) => at >= start && at < start + 1_000).length;
    assert.ok(inWindow <= 5, `${inWindow} in the second from ${start}`);
  }
  assert.ok(begun.at(-1)! <= 4_100, `the last one began at ${begun.at(-1)}`);
  await app.close();
});

test("failures of the infrastructure in a row open the breaker; one message finds out, and its success closes it", async () => {
  const { app, clock, of } = world();
  let isDown = true;
  const tries: number[] = [];
  app.on(Ping, {
    group: "g",
    concurrency: 2,
    retry: { attempts: 100, baseMs: 10, factor: 1 },
    breaker: { failures: 4, pauseMs: 10_000 },
  }, () => {
    tries.push(clock.monotonic());
    if (isDown) {
      throw new TypeError("fetch failed", { cause: Object.assign(new Error(), { code: "ECONNREFUSED" }) });
    }
  });
  await app.start();
  for (let n = 0; n < 20; n++) await app.publish(Ping, { n });
  await clock.advance(9_000);
  assert.ok(tries.length >= 4 && tries.length <= 6, `${tries.length} tries before it opened`);
  const opened = tries.length;
  await clock.advance(10_000);
  assert.equal(tries.length, opened + 1); // half-open: one
  await clock.advance(10_000);
  assert.equal(tries.length, opened + 2);
  assert.deepEqual([of("paused").length, of("resumed").length], [1, 0]);
  assert.match(of("paused")[0]!.error!.message, /fetch failed/);
  isDown = false;
  await clock.advance(15_000);
  assert.equal(of("handled").length, 20);
  assert.equal(of("resumed").length, 1);
  await app.close();
});

test("failures of the messages' own do not open the breaker, not even between others", async () => {
  const { app, clock, of } = world();
  app.on(Ping, {
    group: "g",
    concurrency: 1,
    retry: { attempts: 1 },
    breaker: { failures: 3 },
  }, ({ data }) => {
    throw data.n % 3 === 2 ? new Error("this message's own") : new MillstreamError("UNAVAILABLE", "away");
  });
  await app.start();
  for (let n = 0; n < 12; n++) await app.publish(Ping, { n });
  await until(clock, () => of("dead-lettered").length === 12);
  assert.equal(of("paused").length, 0);
  await app.close();
});

test("what waits behind slow handlers goes back, so that others may take it", async () => {
  const { app, clock } = world();
  const hold = gate();
  let slow = false;
  app.on(Ping, { group: "g", concurrency: 1, leaseMs: 3_000 }, async () => {
    if (slow) await hold.passed;
  });
  await app.start();
  for (let n = 0; n < 50; n++) await app.publish(Ping, { n }); // quick: work is taken ahead
  await clock.advance(100);
  slow = true;
  for (let n = 0; n < 5; n++) await app.publish(Ping, { n });
  await clock.advance(100);
  const other = await app.broker.subscribe("ping", "g");
  await clock.advance(6_000);
  const some = await other.pull(10, { waitMs: 0 });
  assert.equal(some.length, 4);
  hold.open();
  await app.close();
});

for (
  const [what, options] of [
    ["rate.max", { rate: { max: 0, perMs: 1 } }],
    ["rate.perMs", { rate: { max: 1, perMs: 0 } }],
    ["breaker.failures", { breaker: { failures: 0 } }],
    ["breaker.pauseMs", { breaker: { failures: 1, pauseMs: -1 } }],
    ["crashes", { crashes: 0 }],
    ["retryOn.error", { retryOn: [{ error: "" }] }],
    ["retry.attempts", { retryOn: [{ error: "X", attempts: 0 }] }],
    ["from", { from: "end" as never }],
    ["from.since", { from: { since: -1 } }],
  ] as const
) {
  test(`the option "${what}" out of range is refused when the handler is added`, () => {
    const { app } = world();
    assert.throws(() => app.on(Ping, { group: "g", ...options }, () => {}), {
      code: "INVALID_ARGUMENT",
      message: new RegExp(`"${what.split(".")[0]}`),
    });
  });
}
