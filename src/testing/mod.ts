/**
 * Tools for tests: the conformance suites that every broker and store of Millstream passes.
 *
 * @module
 */
export { brokerConformance } from "./conformance/broker.ts";
export type { BrokerConformanceOptions, BrokerUnderTest } from "./conformance/broker.ts";
export type { TestRunner, TestRunnerOptions } from "./runner.ts";
