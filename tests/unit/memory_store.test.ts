import { test } from "node:test";
import { memoryStore } from "../../src/memory/store.ts";
import { storeConformance } from "../../src/testing/mod.ts";

await storeConformance({
  test,
  // deno-lint-ignore require-await
  async create() {
    const store = memoryStore();
    return { store, dispose: async () => await store[Symbol.asyncDispose]() };
  },
});
