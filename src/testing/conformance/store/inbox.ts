/**
 * The inbox: a message is recorded once per group.
 *
 * @module
 */
import { beside, deepEqual, equal, ok } from "../../assert.ts";
import type { StoreSuite } from "../store_world.ts";

/** Registers the tests about {@linkcode Inbox}. */
export function inboxTests({ test }: StoreSuite): void {
  test("inbox: records a message once per group", async ({ store: { inbox }, ...world }) => {
    const id = world.unique("m: ü {} % ✓");
    equal(await inbox.record("one", id), true, "record");
    equal(await inbox.record("one", id), false, "record again");
    equal(await inbox.record("two", id), true, "record in another group");
    equal(await inbox.record("one", world.unique("m")), true, "record another");
  });

  test("inbox: tells which messages a group has handled", async ({ store: { inbox }, ...world }) => {
    const [one, two, three] = [world.unique("m"), world.unique("m"), world.unique("m")] as const;
    await inbox.record("group", one);
    await inbox.record("group", two);
    await inbox.record("other", three);
    deepEqual([...await inbox.seen("group", [one, two, three])].sort(), [one, two].sort(), "seen");
    equal((await inbox.seen("group", [])).size, 0, "seen of nothing");
  });

  test("inbox: a transaction that fails has recorded nothing", async ({ store, ...world }) => {
    const id = world.unique("m");
    const work = store.transaction(async ({ inbox }) => {
      await inbox.record("group", id);
      throw new Error("rolled back on purpose");
    });
    await work.catch(() => {});
    equal((await store.inbox.seen("group", [id])).size, 0, "seen");
    equal(await store.inbox.record("group", id), true, "record");
  });

  test("inbox: of ten transactions that record a message at the same time, one is the first", async ({ store, ...world }) => {
    const stores = [store, await world.connect()];
    const id = world.unique("m");
    const outcomes = await Promise.all(
      Array.from({ length: 10 }, (_, n) =>
        stores[n % 2]!.transaction(async ({ inbox }) => {
          const first = await inbox.record("group", id);
          await world.sleep(5);
          return first;
        })),
    );
    equal(outcomes.filter((first) => first).length, 1, "firsts");
  });

  test("inbox: who waits for a transaction that then fails, is the first", async ({ store, ...world }) => {
    const other = await world.connect();
    const id = world.unique("m");
    let recorded: () => void = () => {};
    const firstRecorded = new Promise<void>((resolve) => recorded = resolve);
    const failing = store.transaction(async ({ inbox }) => {
      equal(await inbox.record("group", id), true, "record of the first");
      recorded();
      await world.sleep(150);
      throw new Error("rolled back on purpose");
    }).catch(() => {});
    await Promise.race([firstRecorded, failing]);
    const waiting = beside(other.transaction(({ inbox }) => inbox.record("group", id)));
    await failing;
    equal(await waiting, true, "record of the second");
  });

  test("inbox: forgets what is old enough, and nothing else", async ({ store: { inbox }, ...world }) => {
    const group = world.unique("group");
    await inbox.record(group, "old");
    await world.sleep(300);
    await inbox.record(group, "new");
    await inbox.forget(60_000);
    deepEqual(
      [...await inbox.seen(group, ["old", "new"])].sort(),
      ["new", "old"],
      "what is younger than a minute",
    );
    ok(await inbox.forget(150) >= 1, "the number of those older than 150 ms");
    deepEqual([...await inbox.seen(group, ["old", "new"])], ["new"], "what is left");
    equal(await inbox.record(group, "old"), true, "record of what was forgotten");
  });
}
