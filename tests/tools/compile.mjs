/**
 * Compiles the library, the tests and the benchmarks to `tests/.build`, since Node 20 reads no TypeScript.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { ROOT } from "./install.mjs";
import { run } from "./process.mjs";

/** The compiler of the project. */
export const TSC = `${ROOT}/node_modules/.bin/tsc`;

/**
 * Compiles, whether the types are right or not.
 *
 * @returns {Promise<{ ok: boolean, output: string, ms: number }>} `ok`: no type errors.
 */
export async function compile() {
  const { code, output, ms } = await run(TSC, ["-p", "tests/tsconfig.json"], {
    cwd: ROOT,
    limitMs: 300_000,
  });
  if (code !== 0 && !existsSync(`${ROOT}/tests/.build/tests`)) {
    throw new Error(`Cannot compile the tests\n${output}`);
  }
  return { ok: code === 0, output, ms };
}
