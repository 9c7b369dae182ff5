/**
 * Tools for tests: the conformance suites that every broker and store of Millstream passes, and a clock that stands
 * still until it is told to go on.
 *
 * @module
 */
export { brokerConformance } from "./conformance/broker.ts";
export type { BrokerConformanceOptions, BrokerUnderTest } from "./conformance/broker.ts";
export { eventStoreConformance } from "./conformance/event_store.ts";
export { storeConformance } from "./conformance/store.ts";
export type { StoreConformanceOptions, StoreUnderTest } from "./conformance/store_world.ts";
export type { TestRunner, TestRunnerOptions } from "./runner.ts";
export { virtualClock } from "./virtual_clock.ts";
export type { VirtualClock } from "./virtual_clock.ts";

export { type Given, given, type When } from "./specification.ts";
export { settled, type SettledOptions } from "./settled.ts";
export {
  type ProcessParts,
  type Replay,
  replay,
  type Scenario,
  simulate,
  type SimulateOptions,
  type SimulationFailure,
  type SimulationReport,
} from "./simulation/simulate.ts";
export type { Fault, FaultPoint } from "./simulation/faults.ts";

// The in-memory implementations, which are also the embedded default.
export { memoryStore, type MemoryStoreOptions } from "../memory/store.ts";
export { memoryBroker, type MemoryBrokerOptions } from "../memory/broker.ts";
