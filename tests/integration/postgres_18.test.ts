/** The newest Postgres: what depends on the server and not on the runtime, so one runtime is enough. */
import process from "node:process";
import { after, describe, test } from "node:test";
import { eventStoreConformance } from "../../src/testing/conformance/event_store.ts";
import { storeConformance } from "../../src/testing/conformance/store.ts";
import { runtimeName } from "../support/process.ts";
import { needs, service } from "../support/require.ts";
import { testBroker, testStore } from "./postgres_conformance.ts";
import { privateOpener } from "./postgres_fixture.ts";

const node = runtimeName() === "node" && Number(process.versions.node.split(".")[0]) >= 22;
const found = service("postgres-18");
const skip = found.skip || needs("one runtime is enough for another server: Node 22 or later", node);

const tests: Parameters<typeof test>[] = [];
if (!skip) {
  const opener = await privateOpener(found, "postgres 18");
  after(() => opener.end());
  const shared = { ...opener, end: () => Promise.resolve() };
  const collect = (...one: unknown[]): unknown => tests.push(one as Parameters<typeof test>);
  await testStore(eventStoreConformance, shared, collect);
  await testStore(storeConformance, shared, collect);
  await testBroker(shared, collect);
}

if (skip) test("the conformance suites", { skip }, () => {});
else {
  describe("the conformance suites", () => {
    for (const one of tests) test(...one);
  });
}
