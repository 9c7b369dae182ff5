/**
 * `npm run check`: everything that can be said about the code without running it against a server.
 *
 * @module
 */
import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { parseArgs } from "node:util";
import { pathToFileURL } from "node:url";
import { compile, TSC } from "./compile.mjs";
import { installTools, ROOT, TESTS_BIN } from "./install.mjs";
import { cleanUp, cleanUpOnSignals, run } from "./process.mjs";
import { paint, seconds } from "./progress.mjs";
import { findRuntime, findRuntimes } from "./runtimes.mjs";
import { importAll } from "./smoke.mjs";
import { runFile } from "./suites.mjs";

/**
 * @typedef {object} CheckResult
 * @property {string} name
 * @property {"passed" | "failed" | "skipped"} outcome
 * @property {string} detail Output of what failed; why it was skipped.
 * @property {number} ms
 */
/** @typedef {{ code: number | null, output: string, skip?: string }} Verdict */
/** @typedef {{ name: string, check: () => Promise<Verdict> }} Check */

/** Later ones use what earlier ones have built. @type {Check[]} */
const CHECKS = [
  { name: "format", check: () => deno("fmt", "--check") },
  { name: "lint", check: () => deno("lint") },
  {
    name: "types of the library, built into dist",
    check: () => tsc("tsconfig.json"),
  },
  {
    name: "types of core and gateway without Node",
    check: () => tsc("tests/tsconfig.edge.json"),
  },
  { name: "types of the tests", check: compileTests },
  {
    name: "types of the test tools",
    check: () => tsc("tests/tsconfig.tools.json"),
  },
  { name: "the test command notices what goes wrong", check: selfTest },
  { name: "architecture", check: () => unitTest("architecture") },
  { name: "exports", check: () => unitTest("exports") },
  { name: "package: files", check: pack },
  {
    name: "package: publint",
    check: () => run(`${TESTS_BIN}/publint`, ["run", TARBALL, "--strict"], { cwd: ROOT }),
  },
  {
    name: "package: types resolve (attw)",
    check: () =>
      run(`${TESTS_BIN}/attw`, [TARBALL, "--profile", "esm-only"], {
        cwd: ROOT,
      }),
  },
  { name: "package: imports when installed", check: smoke },
  { name: "package: JSR", check: jsr },
];

const PACKAGE = `${ROOT}/tests/.build/package`;
const TARBALL = `${PACKAGE}/millstream.tgz`;

/** Runs all checks in order and says how each went. @returns {Promise<CheckResult[]>} */
export async function runChecks({ quiet = false } = {}) {
  /** @type {CheckResult[]} */
  const results = [];
  for (const { name, check } of CHECKS) {
    const started = performance.now();
    const { code, output, skip } = await check().catch((error) => ({
      code: 1,
      output: String(error),
      skip: undefined,
    }));
    const ms = performance.now() - started;
    const outcome = skip ? "skipped" : code === 0 ? "passed" : "failed";
    results.push({
      name,
      outcome,
      detail: skip ?? (code === 0 ? "" : output.trim().slice(-8_000)),
      ms,
    });
    if (quiet) continue;
    const color = outcome === "passed" ? "green" : outcome === "failed" ? "red" : "yellow";
    console.log(`${paint(color, outcome.padEnd(7))} ${name} (${seconds(ms)})${skip ? `: ${skip}` : ""}`);
    if (outcome === "failed") {
      console.log(results.at(-1)?.detail.replace(/^/gm, "    "));
    }
  }
  return results;
}

/** @param {string[]} args @returns {Promise<Verdict>} */
async function deno(...args) {
  const binary = await findRuntime("deno");
  if (!binary) {
    return { code: 1, output: "Deno is not installed in tests/node_modules" };
  }
  return await run(binary, args, {
    cwd: ROOT,
    env: { ...process.env, NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
  });
}

/** @param {string} project */
function tsc(project) {
  return run(TSC, ["-p", project, "--pretty", "false"], { cwd: ROOT });
}

async function compileTests() {
  const { ok, output } = await compile();
  return { code: ok ? 0 : 1, output };
}

/** @param {string} name @returns {Promise<Verdict>} */
async function unitTest(name) {
  const [node] = (await findRuntimes(["node"])).runtimes;
  if (!node) return { code: 1, output: "No Node" };
  const env = {
    ...process.env,
    TMPDIR: `${ROOT}/tests/.build`,
    NODE_TEST_CONTEXT: undefined,
  };
  const { cases } = await runFile(node, `tests/unit/${name}.test.ts`, {
    env,
    limitMs: 60_000,
  });
  const failed = cases.filter(({ outcome }) => outcome !== "passed");
  return {
    code: failed.length,
    output: failed.map((test) => `${test.name}\n${test.detail}`).join("\n"),
  };
}

function selfTest() {
  const env = { ...process.env, NODE_TEST_CONTEXT: undefined };
  return run(process.execPath, ["tests/tools/selftest.mjs"], { cwd: ROOT, env, limitMs: 60_000 });
}

/** Packs what was built, and looks into it. @returns {Promise<Verdict>} */
async function pack() {
  rmSync(PACKAGE, { recursive: true, force: true });
  mkdirSync(`${PACKAGE}/node_modules`, { recursive: true });
  const packed = await run("npm", [
    "pack",
    "--ignore-scripts",
    "--silent",
    "--pack-destination",
    PACKAGE,
  ], { cwd: ROOT });
  if (packed.code !== 0) return packed;
  const [name] = readdirSync(PACKAGE).filter((file) => file.endsWith(".tgz"));
  const moved = await run("mv", [`${PACKAGE}/${name}`, TARBALL]);
  if (moved.code !== 0) return moved;
  const unpacked = await run("tar", [
    "-xzf",
    TARBALL,
    "-C",
    `${PACKAGE}/node_modules`,
  ]);
  if (unpacked.code !== 0) return unpacked;
  await run("mv", [
    `${PACKAGE}/node_modules/package`,
    `${PACKAGE}/node_modules/millstream`,
  ]);
  const files = readdirSync(`${PACKAGE}/node_modules/millstream`, {
    recursive: true,
    encoding: "utf8",
  });
  const stray = files.filter((file) =>
    /(^|\/)(tests|bench|\.env|node_modules)(\/|$)|\.test\.|\.ts$/.test(file) &&
    !file.endsWith(".d.ts")
  );
  return {
    code: stray.length,
    output: `The package contains what does not belong there:\n${stray.join("\n")}`,
  };
}

/** Imports every export of the packed library by name, with this Node. @returns {Promise<Verdict>} */
async function smoke() {
  const script = importAll(readFileSync(`${PACKAGE}/node_modules/millstream/package.json`, "utf8"));
  return await run(
    process.execPath,
    ["--input-type=module", "--eval", script],
    { cwd: PACKAGE, limitMs: 60_000 },
  );
}

/** The registry is not asked for anything but packages that the sources import from it: none. @returns {Promise<Verdict>} */
async function jsr() {
  const verdict = await deno("publish", "--dry-run", "--allow-dirty");
  const offline = OFFLINE.test(verdict.output);
  if (verdict.code !== 0 && offline) {
    return { ...verdict, skip: "jsr.io is not reachable" };
  }
  return verdict;
}

const OFFLINE = /dns error|error sending request|Connection refused|Could not (resolve|connect)/i;

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  cleanUpOnSignals();
  const { values } = parseArgs({
    options: { json: { type: "boolean", default: false } },
  });
  await installTools();
  const results = await runChecks({ quiet: values.json });
  const count = (/** @type {string} */ outcome) =>
    results.filter((result) => result.outcome === outcome).length;
  if (values.json) console.log(JSON.stringify(results, null, 2));
  else {console.log(
      `\n${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`,
    );}
  await cleanUp();
  process.exit(count("failed") > 0 ? 1 : 0);
}
