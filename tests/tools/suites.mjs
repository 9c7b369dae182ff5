/**
 * Runs test files, each as a process of its own, and reads what became of every test.
 *
 * @module
 */
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { ROOT } from "./install.mjs";
import { parseJunit } from "./junit.mjs";
import { run } from "./process.mjs";

/**
 * @typedef {object} FileResult
 * @property {import("./runtimes.mjs").Runtime} runtime
 * @property {string} file
 * @property {import("./junit.mjs").Case[]} cases What the report says, and what went wrong beside it.
 * @property {string} output What the process wrote.
 * @property {number} ms
 */

/** Folders of tests, the slowest first so that the last file to end is a short one. */
const SUITES = ["e2e", "integration", "unit"];

/** All test files, as paths from the root. @param {readonly string[]} filters A file is taken if its path contains one. */
export function findTests(filters) {
  return SUITES.flatMap((suite) => {
    const folder = `tests/${suite}`;
    if (!existsSync(`${ROOT}/${folder}`)) return [];
    const files = readdirSync(`${ROOT}/${folder}`, {
      recursive: true,
      encoding: "utf8",
    }).sort();
    return files.filter((name) => name.endsWith(".test.ts")).map((name) => `${folder}/${name}`);
  }).filter((file) => filters.length === 0 || filters.some((filter) => file.includes(filter)));
}

/**
 * Runs the tests of one file on one runtime. A crash, a missing report, an empty one and a process that does not end
 * are failed tests.
 *
 * @param {import("./runtimes.mjs").Runtime} runtime
 * @param {string} file
 * @param {{ env: NodeJS.ProcessEnv, limitMs: number }} options
 * @returns {Promise<FileResult>}
 */
export async function runFile(runtime, file, { env, limitMs }) {
  const base = `tests/.build/reports/${runtime.id}/${
    file.replace(/^tests\//, "").replace(/\.test\.ts$/, "")
  }`;
  const report = `${ROOT}/${base}.xml`;
  const skips = `${ROOT}/${base}.skips`;
  const stray = `${ROOT}/${base}.stray`;
  mkdirSync(dirname(report), { recursive: true });
  for (const path of [report, skips, stray]) rmSync(path, { force: true });
  const scratch = mkdtempSync(`${env.TMPDIR}/test-`);
  chmodSync(scratch, 0o755); // a private Postgres runs as another user

  const { code, signal, late, output, ms } = await run(
    runtime.binary,
    runtime.args(file, report, limitMs),
    {
      cwd: ROOT,
      env: { ...env, MILLSTREAM_SKIPS: skips, MILLSTREAM_STRAY: stray, TMPDIR: scratch },
      limitMs,
    },
  );

  rmSync(scratch, { recursive: true, force: true });
  const cases = existsSync(report) ? parseJunit(readFileSync(report, "utf8")) : [];
  const reasons = existsSync(skips)
    ? [...new Set(readFileSync(skips, "utf8").trim().split("\n"))].join("; ")
    : "";
  for (const test of cases) {
    if (test.outcome === "skipped") {
      test.detail ||= reasons;
    }
  }
  const strayErrors = readIfThere(stray);
  const wrong = whatElseWentWrong({ code, signal, late, limitMs, strayErrors }, cases);
  if (wrong) {
    const detail = `${wrong}\n${strayErrors || output.trim().slice(-8_000)}`;
    cases.push({ name: "(the file itself)", outcome: "failed", detail });
  }
  return { runtime, file, cases, output, ms };
}

/**
 * @param {{ code: number | null, signal: string | null, late: boolean, limitMs: number, strayErrors: string }} end
 * @param {import("./junit.mjs").Case[]} cases
 */
function whatElseWentWrong({ code, signal, late, limitMs, strayErrors }, cases) {
  if (late) {
    return `did not end within ${limitMs / 1_000} s: a test hangs, or something it opened was never closed`;
  }
  if (signal) return `was ended by ${signal}`;
  if (cases.length === 0) return `no tests found, exit code ${code}`;
  if (strayErrors) return "an error that nobody waits for";
  if (code !== 0 && !cases.some(({ outcome }) => outcome === "failed")) return `ended with exit code ${code}`;
}

/** @param {string} path */
function readIfThere(path) {
  return existsSync(path) ? readFileSync(path, "utf8") : "";
}

/**
 * A runtime can lose tests without a word: Deno reports success for a file that throws while it is loaded. So what ran
 * on one runtime must be known to all others.
 *
 * @param {readonly FileResult[]} results
 * @returns {Map<FileResult, string[]>} The tests that each file result lacks.
 */
export function lostTests(results) {
  /** @type {Map<string, Set<string>>} */
  const ran = new Map();
  for (const { file, cases } of results) {
    const names = ran.get(file) ?? new Set();
    for (const { name, outcome } of cases) {
      if (outcome !== "skipped" && !name.endsWith("itself)")) names.add(name);
    }
    ran.set(file, names);
  }
  /** @type {Map<FileResult, string[]>} */
  const lost = new Map();
  for (const result of results) {
    const known = result.cases.map(({ name }) => name);
    if (known.includes("(the file itself)")) continue; // reported already
    const skipped = result.cases.filter(({ outcome }) => outcome === "skipped")
      .map(({ name }) => `${name} > `);
    const names = [...ran.get(result.file) ?? []]
      .filter((name) =>
        !known.some((own) => own === name || own.startsWith(`${name} (skipped: `)) &&
        !skipped.some((suite) => name.startsWith(suite))
      );
    if (names.length > 0) lost.set(result, names);
  }
  return lost;
}
