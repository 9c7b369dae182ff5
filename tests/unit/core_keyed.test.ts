import fc from "fast-check";
import assert from "node:assert/strict";
import { test } from "node:test";
import { keyedExecutor } from "../../src/core/keyed.ts";

test("under any schedule: order per key, never more than the bound, nothing idle that could run", async () => {
  const task = fc.record({
    key: fc.option(fc.constantFrom("a", "b", "c"), { nil: undefined }),
    fails: fc.boolean(),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.scheduler(),
      fc.array(task, { maxLength: 25 }),
      fc.integer({ min: 1, max: 4 }),
      async (schedule, tasks, bound) => {
        const executor = keyedExecutor(bound);
        const running = new Map<number, string | undefined>();
        const started: number[] = [];
        const results = tasks.map(({ key, fails }, index) =>
          executor.run(key, async () => {
            if (key !== undefined) {
              assert.ok(
                ![...running.values()].includes(key),
                "two of one key at once",
              );
            }
            running.set(index, key);
            started.push(index);
            assert.ok(running.size <= bound, "more than the bound");
            assert.equal(executor.active, running.size);
            await schedule.schedule(Promise.resolve());
            running.delete(index);
            if (fails) throw new Error(`task ${index}`);
            return index;
          })
        );
        const idle = executor.idle();
        await schedule.waitFor(Promise.allSettled(results));
        await idle;
        const outcomes = await Promise.allSettled(results);
        outcomes.forEach((outcome, index) => {
          if (tasks[index]!.fails) {
            assert.equal(
              (outcome as PromiseRejectedResult).reason.message,
              `task ${index}`,
            );
          } else {assert.equal(
              (outcome as PromiseFulfilledResult<number>).value,
              index,
            );}
        });
        for (const key of ["a", "b", "c"]) {
          const ofKey = started.filter((index) => tasks[index]!.key === key);
          assert.deepEqual(
            ofKey,
            [...ofKey].sort((a, b) => a - b),
          );
        }
        assert.equal(started.length, tasks.length);
        assert.deepEqual([executor.active, executor.size], [0, 0]);
      },
    ),
    { numRuns: 200 },
  );
});

test("a blocked key holds back its followers only", async () => {
  const executor = keyedExecutor(2);
  let open = (): void => {};
  const gate = new Promise<void>((resolve) => open = resolve);
  const seen: string[] = [];
  const first = executor.run("a", () => gate);
  const follower = executor.run("a", () => Promise.resolve(seen.push("a2")));
  await executor.run("b", () => Promise.resolve(seen.push("b1")));
  await executor.run(undefined, () => Promise.resolve(seen.push("free")));
  assert.deepEqual([seen, executor.size], [["b1", "free"], 2]);
  open();
  await Promise.all([first, follower, executor.idle()]);
  assert.deepEqual(seen, ["b1", "free", "a2"]);
});

test("a task that throws at once is a failed task like any other", async () => {
  const executor = keyedExecutor(1);
  const work = executor.run("a", () => {
    throw new Error("at once");
  });
  await assert.rejects(work, { message: "at once" });
  assert.equal(await executor.run("a", () => Promise.resolve(1)), 1);
  assert.deepEqual([executor.active, executor.size], [0, 0]);
});

test("a concurrency out of range is refused", () => {
  for (const bad of [0, -1, 1.5, NaN, 100_001]) {
    assert.throws(() => keyedExecutor(bad), { code: "INVALID_ARGUMENT" });
  }
});
