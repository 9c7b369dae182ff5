import { testBroker } from "./postgres_conformance.ts";
import { openers } from "./postgres_fixture.ts";

await testBroker(openers.pglite);
