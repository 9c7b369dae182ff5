/**
 * Decisions that cross streams: tags, and appends under a condition on them.
 *
 * @module
 */
import { isMillstreamError } from "../../../core/errors.ts";
import type { EventToAppend } from "../../../ports/event_store.ts";
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { StoreSuite, StoreWorld } from "../store_world.ts";

/** Registers the tests about {@linkcode AppendCondition} and {@linkcode EventStore.readMatching}. */
export function conditionTests({ test }: StoreSuite): void {
  test("finds events by all of their tags, by type, and behind a position, across streams", async ({ store: { events }, ...world }) => {
    const [course, student] = [world.unique("course:"), world.unique("student:")];
    const both = tagged(world, [student, course], "enrolled");
    const one = tagged(world, [course], "opened");
    const other = tagged(world, [student], "enrolled");
    await events.append([{ stream: world.unique("a"), expected: 0, events: [one, both] }]);
    await events.append([{ stream: world.unique("b"), expected: 0, events: [world.event(), other] }]);
    const find = async (...queries: Parameters<typeof events.readMatching>[0]): Promise<readonly string[]> =>
      idsOf((await events.readMatching(queries)).events);
    deepEqual(await find({ tags: [course] }), idsOf([one, both]), "one tag");
    deepEqual(await find({ tags: [course, student] }), idsOf([both]), "both tags");
    deepEqual(await find({ tags: [course], types: ["opened", "closed"] }), idsOf([one]), "a tag and a type");
    deepEqual(
      await find({ tags: [student] }, { tags: [course], types: ["opened"] }),
      idsOf([one, both, other]),
      "either of two queries, each event once, in order of position",
    );
    deepEqual(await find({ tags: [world.unique("course:")] }), [], "a tag that nobody has");

    const first = await events.readMatching([{ tags: [student] }], { limit: 1 });
    deepEqual(idsOf(first.events), [both.id], "the first");
    const { events: rest, position } = await events.readMatching([{ tags: [student] }], {
      after: first.position,
    });
    deepEqual(idsOf(rest), [other.id], "behind the first");
    equal(position, rest[0]!.position, "position");
    equal(
      (await events.readMatching([{ tags: [student] }], { after: position })).position,
      position,
      "at the end",
    );
  });

  test("appends only if nothing that matches was appended since, to whatever stream", async ({ store: { events }, ...world }) => {
    const [seat, other] = [world.unique("seat:"), world.unique("seat:")];
    const query = [{ tags: [seat], types: ["reserved"] }];
    const [stream, another] = [world.unique("s"), world.unique("s")];
    const { position: after } = await events.readMatching(query);
    const condition = { failIfMatches: query, after };
    // None of these matches.
    await events.append([{ stream, expected: 0, events: [tagged(world, [seat], "seen")] }]);
    await events.append([{ stream, expected: 1, events: [tagged(world, [other], "reserved")] }]);
    const reserved = { stream, expected: "any", events: [tagged(world, [seat], "reserved")] } as const;
    const result = await events.append([reserved], { condition });
    equal(result[0]?.version, 3, "version");

    const late = { stream: another, expected: "none", events: [tagged(world, [seat], "reserved")] } as const;
    const error = await rejects(
      events.append([late], { condition }),
      "CONCURRENCY_CONFLICT",
      "a second reservation",
    );
    deepEqual(error.details, { condition: "failIfMatches" }, "details");
    deepEqual(await events.readStream(another), [], "the other stream");
    deepEqual(
      await events.append([reserved], { condition }),
      result,
      "the repetition of the one that went through",
    );

    const { position } = await events.readMatching(query);
    await events.append([late], { condition: { failIfMatches: query, after: position } });
    equal((await events.readMatching(query)).events.length, 2, "reservations, the second one decided anew");
  });

  test("still refuses an append under a condition that does not fit the version", async ({ store: { events }, ...world }) => {
    const tag = world.unique("t:");
    const condition = { failIfMatches: [{ tags: [tag] }], after: 0n };
    const append = { stream: world.unique("s"), expected: 1, events: [tagged(world, [tag], "t")] } as const;
    const error = await rejects(events.append([append], { condition }), "CONCURRENCY_CONFLICT", "append");
    equal(error.details.current, 0, "current version");
    deepEqual((await events.readMatching([{ tags: [tag] }])).events, [], "events");
  });

  test("of 20 that decide on the same tag at once, each on a stream of its own, exactly one wins", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    for (let round = 0; round < 3; round++) {
      const name = world.unique("name:");
      const query = [{ tags: [name] }];
      const { position: after } = await store.events.readMatching(query);
      const outcomes = await Promise.all(Array.from({ length: 20 }, async (_, n) => {
        const append = {
          stream: world.unique("user"),
          expected: 0,
          events: [tagged(world, [name], "taken")],
        } as const;
        try {
          await stores[n % 2]!.events.append([append], { condition: { failIfMatches: query, after } });
          return "won";
        } catch (error) {
          return isMillstreamError(error) ? error.code : String(error);
        }
      }));
      equal(outcomes.filter((outcome) => outcome === "won").length, 1, "winners");
      equal(outcomes.filter((outcome) => outcome === "CONCURRENCY_CONFLICT").length, 19, "losers");
      equal((await store.events.readMatching(query)).events.length, 1, "events");
    }
  });

  test("a total across streams is never exceeded by those who read, decide, append and try again", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const course = world.unique("course:");
    const query = [{ tags: [course] }];
    const capacity = 5;
    async function enrol({ events }: typeof store): Promise<boolean> {
      const student = world.unique("student:");
      for (;;) {
        const { events: enrolled, position: after } = await events.readMatching(query);
        if (enrolled.length >= capacity) return false;
        const append = {
          stream: world.unique("s"),
          expected: 0,
          events: [tagged(world, [course, student], "e")],
        };
        try {
          await events.append([append], { condition: { failIfMatches: query, after } });
          return true;
        } catch (error) {
          if (!isMillstreamError(error, "CONCURRENCY_CONFLICT")) throw error;
        }
      }
    }
    const enrolled = await Promise.all(Array.from({ length: 12 }, (_, n) => enrol(stores[n % 2]!)));
    equal(enrolled.filter(Boolean).length, capacity, "enrolled");
    equal((await store.events.readMatching(query)).events.length, capacity, "events");
  });

  test("a decision waits for an append of such an event that is under way, and then sees it", async ({ store, ...world }) => {
    const other = await world.connect();
    const tag = world.unique("t:");
    const query = [{ tags: [tag] }];
    let appended: () => void = () => {};
    const hasAppended = new Promise<void>((resolve) => appended = resolve);
    const open = store.transaction(async ({ events }) => {
      await events.append([{ stream: world.unique("a"), expected: 0, events: [tagged(world, [tag], "t")] }]);
      appended();
      await world.sleep(150);
    });
    await Promise.race([hasAppended, open]);
    const append = { stream: world.unique("b"), expected: 0, events: [tagged(world, [tag], "t")] } as const;
    const late = rejects(
      other.events.append([append], { condition: { failIfMatches: query, after: 0n } }),
      "CONCURRENCY_CONFLICT",
      "the append that came meanwhile",
    );
    const read = other.events.readMatching(query);
    await Promise.all([open, late]);
    equal((await read).events.length, 1, "events read");
  });

  test("a transaction that is rolled back leaves no tag behind", async ({ store, ...world }) => {
    const tag = world.unique("t:");
    const failure = new Error("rolled back on purpose");
    const failed = store.transaction(async ({ events }) => {
      await events.append([{ stream: world.unique("a"), expected: 0, events: [tagged(world, [tag], "t")] }]);
      equal((await events.readMatching([{ tags: [tag] }])).events.length, 1, "events inside");
      throw failure;
    });
    equal(await failed.catch((error) => error), failure, "the error");
    deepEqual((await store.events.readMatching([{ tags: [tag] }])).events, [], "events");
  });

  test("refuses queries without tags, and tags that nobody could search for", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    for (
      const tags of [
        [],
        ["a\u0000"],
        ["", "b"],
        ["a", "a"],
        Array.from({ length: 17 }, (_, n) => `t:${n}`),
      ]
    ) {
      const what = `tags ${JSON.stringify(tags).slice(0, 20)}`;
      await rejects(events.readMatching([{ tags }]), "INVALID_ARGUMENT", `a read by ${what}`);
      const condition = { failIfMatches: [{ tags }], after: 0n };
      const append = { stream, expected: "any", events: world.events(1) } as const;
      await rejects(events.append([append], { condition }), "INVALID_ARGUMENT", `a condition on ${what}`);
      if (tags.length === 0) continue;
      const event = { ...world.event(), tags };
      await rejects(
        events.append([{ ...append, events: [event] }]),
        "INVALID_ARGUMENT",
        `an event with ${what}`,
      );
    }
    await rejects(events.readMatching([]), "INVALID_ARGUMENT", "no query");
    const forged = { failIfMatches: [{ tags: ["t"] }], after: -1n };
    await rejects(
      events.append([{ stream, expected: "any", events: world.events(1) }], { condition: forged }),
      "INVALID_ARGUMENT",
      "a position below zero",
    );
    ok((await events.readStream(stream)).length === 0, "nothing was appended");
  });
}

function tagged(world: Pick<StoreWorld, "event">, tags: readonly string[], type: string): EventToAppend {
  return { ...world.event({}, { type }), tags };
}
