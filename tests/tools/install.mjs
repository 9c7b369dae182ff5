/**
 * Makes sure that what `tests/package.json` asks for is installed: the runtimes, and the tools that check the package.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { run } from "./process.mjs";

/** The project's folder. */
export const ROOT = fileURLToPath(new URL("../../", import.meta.url)).replace(/\/$/, "");
/** Executables of `tests/package.json`. */
export const TESTS_BIN = `${ROOT}/tests/node_modules/.bin`;

/** Runs `npm ci` in `tests` unless the lock file is the one that was installed last. */
export async function installTools() {
  if (!existsSync(`${ROOT}/node_modules/.package-lock.json`)) {
    throw new Error('Cannot run the tests: "node_modules" is missing, run "npm ci" first');
  }
  const stamp = `${ROOT}/tests/node_modules/.installed`;
  const lock = createHash("sha256").update(readFileSync(`${ROOT}/tests/package-lock.json`)).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  console.log("Installing the runtimes and tools of the tests (npm ci in tests/)");
  const { code, output } = await run("npm", ["ci", "--no-audit", "--no-fund"], {
    cwd: `${ROOT}/tests`,
    env: withoutNpm(process.env),
  });
  if (code !== 0) {
    throw new Error(`Cannot install the tools of the tests: npm ci ended with ${code}\n${output}`);
  }
  writeFileSync(stamp, lock);
}

/** npm hands its own configuration to the scripts it runs, which would point the inner npm at the outer project. */
/** @param {NodeJS.ProcessEnv} env @returns {NodeJS.ProcessEnv} */
function withoutNpm(env) {
  return Object.fromEntries(
    Object.entries(env).filter(([name]) =>
      !/^npm_(config_(local_prefix|prefix|global_prefix)|package|lifecycle|command)/
        .test(name)
    ),
  );
}
