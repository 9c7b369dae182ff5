/**
 * Makes sure that what `tests/package.json` and `bench/package.json` ask for is installed.
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

/** The runtimes, and the tools that check the package. */
export async function installTools() {
  if (!existsSync(`${ROOT}/node_modules/.package-lock.json`)) {
    throw new Error('Cannot run the tests: "node_modules" is missing, run "npm ci" first');
  }
  await install("tests", "the runtimes and tools of the tests");
}

/** What the benchmarks measure beside Millstream. */
export async function installPeers() {
  await install("bench", "what the benchmarks compare with");
}

/** Runs `npm ci` in a folder unless its lock file is the one that was installed last. */
/** @param {string} folder @param {string} what */
async function install(folder, what) {
  const stamp = `${ROOT}/${folder}/node_modules/.installed`;
  const lock = createHash("sha256").update(readFileSync(`${ROOT}/${folder}/package-lock.json`)).digest("hex");
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === lock) return;
  console.error(`Installing ${what} (npm ci in ${folder}/)`);
  const { code, output } = await run("npm", ["ci", "--no-audit", "--no-fund"], {
    cwd: `${ROOT}/${folder}`,
    env: withoutNpm(process.env),
  });
  if (code !== 0) throw new Error(`Cannot install ${what}: npm ci ended with ${code}\n${output}`);
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
