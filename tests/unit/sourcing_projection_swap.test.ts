/** When a new build takes the place of the live one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { projection } from "../../src/sourcing/projection.ts";
import { gate } from "./messaging_fixture.ts";
import { Counted, stage } from "./sourcing_fixture.ts";

test("a build that is nearly level is not swapped in before it is level", async () => {
  // Interleaving: the live build stands still for the swap; the handler of the next one takes its time.
  const { clock, store, run, append, operate } = stage();
  const long = gate();
  const numbers = projection("numbers", { on: [Counted], transactional: false }, async (_, { build }) => {
    if (build === 2) await long.passed;
  });
  await append("a", 1, 2, 3);
  const loop = run(numbers);
  await clock.advance(100);
  await operate(numbers).rebuild("numbers");
  await clock.advance(10_000);
  const waiting = await store.projections.load("numbers");
  assert.deepEqual([waiting!.live.build, waiting!.swapping], [1, true]);
  long.open();
  await clock.advance(5_000);
  assert.equal((await store.projections.load("numbers"))!.live.build, 2);
  await loop.stop();
});
