/**
 * Broker and store in memory: what an application starts with, and what tests use.
 *
 * @module
 */
export { memoryBroker } from "./broker.ts";
export type { MemoryBrokerOptions } from "./broker.ts";
export { memoryStore } from "./store.ts";
export type { MemoryStoreOptions } from "./store.ts";
