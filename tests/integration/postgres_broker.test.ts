import { after, test } from "node:test";
import { brokerConformance } from "../../src/testing/conformance/broker.ts";
import { openers, uniqueSchema } from "./postgres_fixture.ts";

for (const { name, skip, open, drop, end } of openers) {
  if (skip) {
    test(`${name}: the conformance suite`, { skip }, () => {});
    continue;
  }
  after(end);
  await brokerConformance({
    test,
    name,
    async create() {
      const schema = uniqueSchema("broker");
      const store = await open(schema, { retentionMs: 0 });
      const stores = [store];
      return {
        broker: store.broker(),
        async secondConnection() {
          const other = await open(schema);
          stores.push(other);
          return other.broker();
        },
        trim: async () => void await store.prune(),
        async dispose() {
          for (const opened of stores) await opened[Symbol.asyncDispose]();
          await drop(schema);
        },
      };
    },
  });
}
