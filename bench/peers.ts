/**
 * What the benchmarks compare with: the packages of `bench/package.json`.
 *
 * @module
 */
import { createRequire } from "node:module";
import process from "node:process";
import { pathToFileURL } from "node:url";

/**
 * Loads one of them. They are installed beside the benchmarks and nowhere else, so that neither the library nor its
 * tests can reach them. Its shape is the caller's to state: `await peer<typeof import("bullmq")>("bullmq")`.
 */
export async function peer<Module>(name: string): Promise<Module> {
  const require = createRequire(`${process.cwd()}/bench/package.json`);
  return await import(pathToFileURL(require.resolve(name)).href) as Module;
}
