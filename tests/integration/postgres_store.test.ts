import { storeConformance } from "../../src/testing/conformance/store.ts";
import { testStore } from "./postgres_conformance.ts";
import { openers } from "./postgres_fixture.ts";

for (const opener of Object.values(openers)) {
  await testStore(storeConformance, opener);
}
