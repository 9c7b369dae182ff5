import { testBroker } from "./postgres_conformance.ts";
import { privateOpener } from "./postgres_fixture.ts";

await testBroker(await privateOpener());
