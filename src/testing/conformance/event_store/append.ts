/**
 * Appending: expected versions, races, idempotence, several streams.
 *
 * @module
 */
import { isMillstreamError } from "../../../core/errors.ts";
import type { ExpectedVersion } from "../../../ports/event_store.ts";
import { deepEqual, equal, ok, rejects } from "../../assert.ts";
import { idsOf } from "../messages.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode EventStore.append}. */
export function appendTests({ test }: StoreSuite): void {
  test("numbers the events of a stream from 1 without gaps, and positions increase", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const appended = world.events(6);
    const results = [
      await events.append([{ stream, expected: "none", events: appended.slice(0, 2) }]),
      await events.append([{ stream, expected: 2, events: appended.slice(2, 3) }]),
      await events.append([{ stream, expected: "any", events: appended.slice(3) }]),
    ].flat();
    deepEqual(results.map((result) => [result.stream, result.version]), [[stream, 2], [stream, 3], [
      stream,
      6,
    ]], "results");
    const stored = await events.readStream(stream);
    deepEqual(idsOf(stored), idsOf(appended), "ids");
    deepEqual(stored.map(({ version }) => version), [1, 2, 3, 4, 5, 6], "versions");
    for (const [index, { position, stream: name }] of stored.entries()) {
      equal(name, stream, "stream");
      const before = stored[index - 1]?.position ?? 0n;
      ok(position > before, `position ${position} follows ${before}`);
    }
    deepEqual(
      results.map(({ position }) => position),
      [2, 3, 6].map((version) => stored[version - 1]!.position),
      "positions",
    );
  });

  test("appends where the expected version fits, and refuses with what it found where it does not", async ({ store: { events }, ...world }) => {
    const cases: ReadonlyArray<readonly [length: number, expected: ExpectedVersion, fits: boolean]> = [
      [0, 0, true],
      [0, "none", true],
      [0, "any", true],
      [0, "exists", false],
      [0, 1, false],
      [2, 2, true],
      [2, "any", true],
      [2, "exists", true],
      [2, "none", false],
      [2, 0, false],
      [2, 1, false],
      [2, 3, false],
    ];
    for (const [length, expected, fits] of cases) {
      const stream = world.unique("s");
      const what = `expected ${expected} with ${length} events`;
      if (length > 0) await events.append([{ stream, expected: 0, events: world.events(length) }]);
      const append = events.append([{ stream, expected, events: world.events(2) }]);
      if (fits) {
        equal((await append)[0]?.version, length + 2, `version after ${what}`);
      } else {
        const error = await rejects(append, "CONCURRENCY_CONFLICT", what);
        const { stream: name, expected: wanted, current } = error.details;
        deepEqual(
          { name, wanted, current },
          { name: stream, wanted: expected, current: length },
          `details of ${what}`,
        );
        ok(error.retryable, "a conflict is retryable");
        equal((await events.readStream(stream)).length, length, `events after ${what}`);
      }
    }
  });

  test("lets one of 20 concurrent appenders with the same expected version win", async ({ store, ...world }) => {
    const stream = world.unique("s");
    const stores = [store, await world.connect()];
    await store.events.append([{ stream, expected: 0, events: world.events(3) }]);
    const outcomes = await Promise.all(Array.from({ length: 20 }, async (_, n) => {
      try {
        const append = [{ stream, expected: 3, events: world.events(2) }];
        return (await stores[n % 2]!.events.append(append))[0]?.version;
      } catch (error) {
        return isMillstreamError(error) ? error.code : String(error);
      }
    }));
    deepEqual(outcomes.filter((outcome) => outcome === 5).length, 1, "winners");
    deepEqual(outcomes.filter((outcome) => outcome === "CONCURRENCY_CONFLICT").length, 19, "losers");
    deepEqual(
      (await store.events.readStream(stream)).map(({ version }) => version),
      [1, 2, 3, 4, 5],
      "versions",
    );
  });

  test("lets 20 concurrent appenders that expect any version all through, without gaps", async ({ store, ...world }) => {
    const stream = world.unique("s");
    const stores = [store, await world.connect()];
    const batches = Array.from({ length: 20 }, () => world.events(3));
    await Promise.all(
      batches.map((batch, n) => stores[n % 2]!.events.append([{ stream, expected: "any", events: batch }])),
    );
    const stored = await store.events.readStream(stream);
    deepEqual(stored.map(({ version }) => version), Array.from({ length: 60 }, (_, n) => n + 1), "versions");
    for (const batch of batches) {
      const first = stored.findIndex(({ id }) => id === batch[0]!.id);
      deepEqual(idsOf(stored.slice(first, first + 3)), idsOf(batch), "a batch stays together");
    }
  });

  test("returns the earlier result when the same events are appended again, also after others", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const first = { stream, expected: 0, events: world.events(2) } as const;
    const second = { stream, expected: 2, events: world.events(2) } as const;
    const earlier = await events.append([first]);
    deepEqual(await events.append([first]), earlier, "the repetition");
    const later = await events.append([second]);
    deepEqual(await events.append([first]), earlier, "the repetition after others were appended");
    deepEqual(
      await events.append([{ ...first, expected: "none" }]),
      earlier,
      "the repetition with another expected version",
    );
    deepEqual(await events.append([second]), later, "the repetition of the last");
    deepEqual(
      idsOf(await events.readStream(stream)),
      idsOf([...first.events, ...second.events]),
      "the stream",
    );
  });

  test("appends once when the same call is made five times at once", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    for (const expected of [0, "any"] as const) {
      const append = [{ stream: world.unique("s"), expected, events: world.events(3) }];
      const results = await Promise.all(
        Array.from({ length: 5 }, (_, n) => stores[n % 2]!.events.append(append)),
      );
      for (const result of results) deepEqual(result, results[0], "results");
      equal((await store.events.readStream(append[0]!.stream)).length, 3, "events in the stream");
    }
  });

  test("does not take some of the events for all of them", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const [one, two, three] = world.events(3);
    ok(one && two && three, "three events");
    await events.append([{ stream, expected: 0, events: [one, two] }]);
    await rejects(
      events.append([{ stream, expected: 0, events: [one, two, three] }]),
      "CONCURRENCY_CONFLICT",
      "more events",
    );
    await rejects(
      events.append([{ stream, expected: 0, events: [two, one] }]),
      "CONCURRENCY_CONFLICT",
      "in another order",
    );
    equal((await events.readStream(stream)).length, 2, "events in the stream");
  });

  test("appends to several streams all or nothing, and returns results in the order given", async ({ store: { events }, ...world }) => {
    const [a, b, c] = [world.unique("a"), world.unique("b"), world.unique("c")];
    const appends = [
      { stream: b, expected: "none", events: world.events(2) },
      { stream: a, expected: 0, events: world.events(1) },
    ] as const;
    const results = await events.append(appends);
    deepEqual(results.map(({ stream, version }) => [stream, version]), [[b, 2], [a, 1]], "results");
    ok(results[0]!.position < results[1]!.position, "positions follow the order given");
    deepEqual(await events.append(appends), results, "the repetition");

    const error = await rejects(
      events.append([
        { stream: c, expected: "none", events: world.events(1) },
        { stream: a, expected: 5, events: world.events(1) },
        { stream: b, expected: "any", events: world.events(1) },
      ]),
      "CONCURRENCY_CONFLICT",
      "one of three conflicts",
    );
    deepEqual([error.details.stream, error.details.current], [a, 1], "details");
    const lengths = await Promise.all(
      [a, b, c].map(async (stream) => (await events.readStream(stream)).length),
    );
    deepEqual(lengths, [1, 2, 0], "events in the streams");
  });

  test("survives concurrent appends to the same streams named in different orders", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const streams = [world.unique("a"), world.unique("b"), world.unique("c")];
    await Promise.all(Array.from({ length: 12 }, async (_, n) => {
      const order = n % 2 ? streams : [...streams].reverse();
      await stores[n % 2]!.events.append(
        order.map((stream) => ({ stream, expected: "any", events: world.events(1) })),
      );
    }));
    for (const stream of streams) {
      const versions = (await store.events.readStream(stream)).map(({ version }) => version);
      deepEqual(versions, Array.from({ length: 12 }, (_, n) => n + 1), "versions");
    }
  });

  test("refuses bad stream names, empty appends and a stream named twice, before anything is written", async ({ store: { events }, ...world }) => {
    const good = { stream: world.unique("s"), expected: "any", events: world.events(1) } as const;
    for (const stream of ["", "a\u0000b", "\ud800", "x".repeat(2_000)]) {
      const what = `stream name ${JSON.stringify(stream.slice(0, 20))}`;
      await rejects(events.append([good, { ...good, stream }]), "INVALID_ARGUMENT", what);
    }
    await rejects(events.append([]), "INVALID_ARGUMENT", "no stream");
    await rejects(
      events.append([good, { ...good, stream: world.unique("s"), events: [] }]),
      "INVALID_ARGUMENT",
      "no events",
    );
    await rejects(
      events.append([good, { ...good, events: world.events(1) }]),
      "INVALID_ARGUMENT",
      "a stream named twice",
    );
    for (const expected of [-1, 1.5, NaN]) {
      await rejects(
        events.append([{ ...good, expected }]),
        "INVALID_ARGUMENT",
        `expected version ${expected}`,
      );
    }
    deepEqual(await events.readStream(good.stream), [], "the stream");
  });

  test("of many appends called at once, each has an outcome of its own: done, in conflict, known, refused", async ({ store: { events }, ...world }) => {
    const streams = Array.from({ length: 40 }, () => world.unique("s"));
    const known = { stream: streams[0]!, expected: 0, events: world.events(1) } as const;
    const [earlier] = await events.append([known]);
    const outcomes = await Promise.all(streams.flatMap((stream, n) =>
      [
        n === 0 ? known : { stream, expected: 0, events: world.events(2) },
        { stream, expected: 7, events: world.events(1) },
        { stream, expected: "any", events: [{ ...world.event(), body: "\0" }] },
        { stream, expected: "any", events: world.events(1) },
      ].map(async (append) => {
        try {
          return (await events.append([append as typeof known]))[0]!.version;
        } catch (error) {
          return isMillstreamError(error) ? error.code : String(error);
        }
      })
    ));
    const expected = streams.flatMap((_, n) => [
      n === 0 ? earlier!.version : 2,
      "CONCURRENCY_CONFLICT",
      "INVALID_ARGUMENT",
      n === 0 ? 2 : 3,
    ]);
    deepEqual(outcomes, expected, "outcomes");
    for (const [n, stream] of streams.entries()) {
      equal((await events.readStream(stream)).length, n === 0 ? 2 : 3, "events in the stream");
    }
  });

  test("appends called one after another without waiting take effect in that order", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const batches = Array.from({ length: 30 }, () => world.events(2));
    const results = await Promise.all(
      batches.map((batch, n) => events.append([{ stream, expected: 2 * n, events: batch }])),
    );
    deepEqual(results.map(([result]) => result!.version), batches.map((_, n) => 2 * n + 2), "versions");
    deepEqual(idsOf(await events.readStream(stream)), batches.flatMap(idsOf), "ids");
  });

  test("refuses a body that is too large, or that UTF-8 cannot carry, before anything is written", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const good = world.event();
    const refused = async (body: string, code: "PAYLOAD_TOO_LARGE" | "INVALID_ARGUMENT"): Promise<void> => {
      const append = { stream, expected: "any", events: [good, { ...world.event(), body }] } as const;
      await rejects(events.append([append]), code, `a body of ${body.length} characters`);
    };
    await refused(`"${"x".repeat(10_000_000)}"`, "PAYLOAD_TOO_LARGE");
    await refused('"\0"', "INVALID_ARGUMENT");
    await refused('"\ud800"', "INVALID_ARGUMENT");
    deepEqual(await events.readStream(stream), [], "the stream");
    const large = { ...world.event(), body: `"${"é".repeat(2_000_000)}"` };
    await events.append([{ stream, expected: 0, events: [large] }]);
    equal((await events.readStream(stream))[0]?.body, large.body, "a body of 4 MB");
  });

  test("does nothing if its signal has aborted", async ({ store: { events }, ...world }) => {
    const stream = world.unique("s");
    const append = events.append([{ stream, expected: 0, events: world.events(1) }], {
      signal: AbortSignal.abort(),
    });
    await rejects(append, "ABORTED", "append");
    deepEqual(await events.readStream(stream), [], "the stream");
  });
}
