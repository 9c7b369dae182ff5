import { after, test } from "node:test";
import { eventStoreConformance } from "../../src/testing/conformance/event_store.ts";
import { openers, uniqueSchema } from "./postgres_fixture.ts";

for (const { name, skip, open, drop, end } of openers) {
  if (skip) {
    test(`${name}: the conformance suite`, { skip }, () => {});
    continue;
  }
  after(end);
  await eventStoreConformance({
    test,
    name,
    async create() {
      const schema = uniqueSchema("events");
      const store = await open(schema);
      return {
        store,
        secondConnection: () => open(schema),
        async dispose() {
          await store[Symbol.asyncDispose]();
          await drop(schema);
        },
      };
    },
  });
}
