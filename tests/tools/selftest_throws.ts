// For selftest.mjs: a test file that fails while it is loaded, after a test was defined.
import assert from "node:assert/strict";
import { test } from "node:test";

test("passes", () => assert.ok(true));
throw new Error("throws");
