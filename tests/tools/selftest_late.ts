// For selftest.mjs: a test that passes, and an error after it that nobody waits for.
import assert from "node:assert/strict";
import { test } from "node:test";

test("passes", async () => {
  setTimeout(() => {
    throw new Error("late");
  }, 20);
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.ok(true);
});
