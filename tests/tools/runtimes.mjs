/**
 * The runtimes a test file runs on, and how each is asked to run one.
 *
 * @module
 */
import { existsSync, readdirSync } from "node:fs";
import { ROOT } from "./install.mjs";
import { run } from "./process.mjs";

/**
 * @typedef {object} Runtime
 * @property {string} id For `--runtime`.
 * @property {string} name For reports.
 * @property {string} binary
 * @property {(file: string, report: string, limitMs: number) => string[]} args Arguments that run the tests of one file
 * (path from the root, `.ts`) and write a JUnit report.
 */

/** @typedef {{ id: string, reason: string }} Missing */

const MODULES = `${ROOT}/tests/node_modules`;

/** All runtimes that can be started, and why the others cannot. */
/** @param {readonly string[]} wanted Ids; empty: all. @returns {Promise<{ runtimes: Runtime[], missing: Missing[] }>} */
export async function findRuntimes(wanted) {
  /** @type {Runtime[]} */
  const runtimes = [];
  /** @type {Missing[]} */
  const missing = [];
  for (const candidate of CANDIDATES) {
    if (wanted.length > 0 && !wanted.includes(candidate.id)) continue;
    const found = await firstThatRuns(candidate.binaries());
    if (found) {
      runtimes.push({
        id: candidate.id,
        name: `${candidate.label} ${found.version}`,
        binary: found.binary,
        args: candidate.args,
      });
    } else {missing.push({
        id: candidate.id,
        reason: `no working binary of ${candidate.label}; ${candidate.hint}`,
      });}
  }
  const known = CANDIDATES.map(({ id }) => id);
  const unknown = wanted.find((id) => !known.includes(id));
  if (unknown) {
    throw new Error(`Cannot run on "${unknown}": expected one of ${known.join(", ")}`);
  }
  return { runtimes, missing };
}

/** @type {{ id: string, label: string, hint: string, binaries: () => string[], args: Runtime["args"] }[]} */
const CANDIDATES = [
  {
    id: "node",
    label: "node",
    hint: "",
    binaries: () => [process.execPath],
    args: nodeArgs,
  },
  {
    id: "node24",
    label: "node",
    hint: "expected the package node-<platform>-<arch> in tests/node_modules",
    binaries: () => [`${MODULES}/.bin/node`],
    args: nodeArgs,
  },
  {
    id: "bun",
    label: "bun",
    hint: 'its install script may have been refused: run "npm rebuild bun" in tests/',
    binaries: () => [
      `${MODULES}/bun/bin/bun.exe`,
      ...platformPackages("@oven", "bin/bun"),
    ],
    args: (file, report, limitMs) => [
      "test",
      `--timeout=${limitMs}`,
      "--reporter=junit",
      `--reporter-outfile=${report}`,
      `./${file}`,
    ],
  },
  {
    id: "deno",
    label: "deno",
    hint: 'its install script may have been refused: run "npm rebuild deno" in tests/',
    binaries: () => [`${MODULES}/deno/deno`, ...platformPackages("@deno", "deno")],
    args: (file, report) => [
      "test",
      "-A",
      "--no-check",
      "--no-lock",
      "--preload=tests/tools/deno_strict.mjs",
      `--junit-path=${report}`,
      file,
    ],
  },
];

/** @param {string} file @param {string} report */
function nodeArgs(file, report) {
  const compiled = `tests/.build/${file.replace(/\.ts$/, ".js")}`;
  return [
    "--enable-source-maps",
    "--import=./tests/tools/node_strict.mjs",
    "--test-reporter=junit",
    `--test-reporter-destination=${report}`,
    "--test-reporter=spec", // says where it was, if it crashes or hangs
    "--test-reporter-destination=stdout",
    compiled,
  ];
}

/** The binaries that come inside packages of their own, which work without any install script. */
/** @param {string} scope @param {string} path */
function platformPackages(scope, path) {
  const folder = `${MODULES}/${scope}`;
  return existsSync(folder) ? readdirSync(folder).map((name) => `${folder}/${name}/${path}`) : [];
}

/** @param {string[]} binaries */
async function firstThatRuns(binaries) {
  for (const binary of binaries) {
    const { code, stdout } = await run(binary, ["--version"], {
      limitMs: 30_000,
    });
    const version = /\d+\.\d+\.\d+\S*/.exec(stdout)?.[0];
    if (code === 0 && version) return { binary, version };
  }
}

/** The binary of one runtime, for tools that need it. */
/** @param {string} id @returns {Promise<string | undefined>} */
export async function findRuntime(id) {
  return (await findRuntimes([id])).runtimes[0]?.binary;
}
