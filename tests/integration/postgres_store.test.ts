import { after, test } from "node:test";
import { storeConformance } from "../../src/testing/conformance/store.ts";
import { openers, uniqueSchema } from "./postgres_fixture.ts";

for (const { name, skip, open, drop, end } of openers) {
  if (skip) {
    test(`${name}: the conformance suite`, { skip }, () => {});
    continue;
  }
  after(end);
  await storeConformance({
    test,
    name,
    async create() {
      const schema = uniqueSchema("store");
      const store = await open(schema);
      return {
        store,
        secondConnection: () => open(schema),
        async restart() {
          await store[Symbol.asyncDispose]();
          return await open(schema);
        },
        async dispose() {
          await store[Symbol.asyncDispose]();
          await drop(schema);
        },
      };
    },
  });
}
