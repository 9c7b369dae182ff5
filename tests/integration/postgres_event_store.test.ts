import { eventStoreConformance } from "../../src/testing/conformance/event_store.ts";
import { testStore } from "./postgres_conformance.ts";
import { openers } from "./postgres_fixture.ts";

for (const opener of Object.values(openers)) {
  await testStore(eventStoreConformance, opener);
}
