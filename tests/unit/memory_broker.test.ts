import { test } from "node:test";
import { brokerMemory } from "../../src/memory/broker.ts";
import { brokerConformance } from "../../src/testing/mod.ts";

await brokerConformance({
  test,
  // deno-lint-ignore require-await
  async create() {
    const memory = brokerMemory();
    return {
      broker: memory.connect(),
      // deno-lint-ignore require-await
      secondConnection: async () => memory.connect(),
      // deno-lint-ignore require-await
      trim: async (topic) => memory.trim(topic),
      // deno-lint-ignore require-await
      dispose: async () => memory.close(),
    };
  },
});
