/**
 * `npm test`: the checks, then every test file on every runtime, against real servers.
 *
 * ```
 * npm test -- --runtime=bun,deno --filter=redis
 * ```
 *
 * @module
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { runChecks } from "./check.mjs";
import { compile } from "./compile.mjs";
import { installTools } from "./install.mjs";
import { cleanUp, cleanUpOnSignals, onEnd } from "./process.mjs";
import { paint, Progress, seconds } from "./progress.mjs";
import { findRuntimes } from "./runtimes.mjs";
import { startServices } from "./services.mjs";
import { findTests, lostTests, runFile } from "./suites.mjs";

const HELP = `npm test -- [options] [filter ...]

  --runtime=<ids>   node, node24, bun, deno; several with commas. All by default
  --filter=<text>   only test files whose path contains the text; may be repeated
  --skip-checks     only the test files. Implied by a filter
  --jobs=<n>        test files at a time. One more than there are processors by default, as tests mostly wait; 4 at most
  --limit=<s>       seconds a test file may take on one runtime. 120 by default
  --list            name the test files and stop

Environment: REDIS_URL, DATABASE_URL use these servers. TESTCONTAINERS=1 prefers Docker; MILLSTREAM_REDIS_IMAGE and
MILLSTREAM_POSTGRES_IMAGE name other images for it, TESTCONTAINERS_RYUK_DISABLED=true spares its reaper's image.
REQUIRE_ALL=1 makes what cannot be had a failure.`;

/** So many files may fail for reasons of the machine. More of them are no accident. */
const MAX_AGAIN = 4;

/**
 * @typedef {object} Entry One line of the result.
 * @property {string} where Runtime and file, or "checks".
 * @property {string} name
 * @property {string} detail
 */
/** @typedef {{ passed: number, failed: Entry[], skipped: Entry[] }} Tally */

cleanUpOnSignals();
process.exitCode = await main().catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  console.log("\n0 passed, 1 failed, 0 skipped");
  return 1;
});
await cleanUp();
process.exit();

async function main() {
  const started = performance.now();
  const options = readOptions();
  if (!options) return 0;
  const files = findTests(options.filters);
  if (options.list) {
    console.log(files.join("\n"));
    return 0;
  }
  if (files.length === 0) {
    throw new Error(`Cannot find a test file whose path contains ${options.filters.join(" or ")}`);
  }

  await installTools();
  const { runtimes, missing } = await findRuntimes(options.runtimes);
  /** @type {Map<string, Tally>} */
  const tallies = new Map();
  if (!options.skipChecks) {
    tallies.set("checks", tallyChecks(await runChecks()));
  } else await compileOnly();
  const { env, absent } = await prepareServices(files, options.filters.length > 0);

  const first = await runFiles(runtimes, files, { ...options, env });
  const { results, unstable } = await runAgain(first, { ...options, env });
  for (const runtime of runtimes) {
    tallies.set(
      runtime.name,
      tallyFiles(results.filter((result) => result.runtime === runtime), lostTests(results)),
    );
  }
  tallies.set(
    "machine",
    tallyMissing([...absent, ...missing.map(({ id, reason }) => ({ name: id, reason }))]),
  );
  return report(tallies, unstable, performance.now() - started);
}

function readOptions() {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      runtime: { type: "string", multiple: true, default: [] },
      filter: { type: "string", multiple: true, default: [] },
      "skip-checks": { type: "boolean", default: false },
      jobs: {
        type: "string",
        default: String(Math.min(4, availableParallelism() + 1)),
      },
      limit: { type: "string", default: "120" },
      list: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  const filters = [...values.filter, ...positionals];
  return {
    runtimes: values.runtime.flatMap((ids) => ids.split(",")).filter(Boolean),
    filters,
    skipChecks: values["skip-checks"] || filters.length > 0,
    jobs: positive("--jobs", values.jobs),
    limitMs: positive("--limit", values.limit) * 1_000,
    list: values.list,
  };
}

/** @param {string} option @param {string} text */
function positive(option, text) {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`Cannot use ${option}=${text}: expected a whole number from 1`);
}

async function compileOnly() {
  const { ok, output, ms } = await compile();
  const errors = output.split("\n").filter((line) => /error TS/.test(line));
  console.log(
    `Compiled in ${seconds(ms)}${
      ok ? "" : paint(
        "yellow",
        `, ${errors.length} type errors (npm run check shows them)`,
      )
    }`,
  );
}

/** Unit tests use no server: none is started if a filter leaves only those. */
/** @param {string[]} files @param {boolean} filtered */
async function prepareServices(files, filtered) {
  const base = {
    ...process.env,
    NO_COLOR: "1",
    DENO_NO_UPDATE_CHECK: "1",
    FORCE_COLOR: undefined,
    NODE_TEST_CONTEXT: undefined,
  };
  if (filtered && files.every((file) => file.startsWith("tests/unit/"))) {
    const scratch = mkdtempSync(`${tmpdir()}/millstream-`);
    chmodSync(scratch, 0o755);
    onEnd(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 5 }));
    return { env: { ...base, TMPDIR: scratch }, absent: [] };
  }
  const { env, had, missing } = await startServices(files);
  for (const line of had) console.log(line);
  return { env: { ...base, ...env }, absent: missing };
}

/**
 * @param {import("./runtimes.mjs").Runtime[]} runtimes
 * @param {string[]} files
 * @param {{ env: NodeJS.ProcessEnv, jobs: number, limitMs: number }} options
 */
async function runFiles(runtimes, files, { env, jobs, limitMs }) {
  /** @type {import("./suites.mjs").FileResult[]} */
  const results = [];
  /** Lines that begin with "# " are what a test has to tell: a size, a rate. Each is printed once. */
  const notes = new Set();
  const progress = new Progress();
  for (const { name } of runtimes) progress.add(name, files.length);
  const queue = runtimes.flatMap((runtime) => files.map((file) => ({ runtime, file })));
  await Promise.all(Array.from({ length: jobs }, async () => {
    for (let item = queue.shift(); item; item = queue.shift()) {
      const { runtime, file } = item;
      progress.begin(runtime.name, file);
      const result = await runFile(runtime, file, { env, limitMs });
      results.push(result);
      for (const [line] of result.output.matchAll(/^# .+/gm)) {
        if (!notes.has(line)) progress.print(line.slice(2));
        notes.add(line);
      }
      const failures = result.cases.filter(({ outcome }) => outcome === "failed");
      progress.end(runtime.name, file, failures.length);
      for (const { name, detail } of failures) {
        progress.print(
          failure({
            where: `${runtime.name} ${file}`,
            name,
            detail: detail ?? "",
          }),
        );
      }
    }
  }));
  progress.close();
  return results;
}

/**
 * Runs files that failed once more, alone: on a machine that is short of time a test may miss a deadline that says
 * nothing about the code. What passes then counts, and is named as unstable at the end: it is a bug to be found.
 *
 * @param {import("./suites.mjs").FileResult[]} first
 * @param {{ env: NodeJS.ProcessEnv, limitMs: number }} options
 */
async function runAgain(first, { env, limitMs }) {
  /** @param {import("./suites.mjs").FileResult} result */
  const failures = ({ cases }) => cases.filter(({ outcome }) => outcome === "failed");
  /** @type {string[]} */
  const unstable = [];
  const failed = first.filter((result) => failures(result).length > 0);
  if (failed.length > MAX_AGAIN) return { results: first, unstable };
  const results = new Map(first.map((result) => [result, result]));
  for (const result of failed) {
    const { runtime, file } = result;
    console.log(`Once more, alone: ${runtime.name} ${file}`);
    const again = await runFile(runtime, file, { env, limitMs });
    if (failures(again).length > 0) continue;
    results.set(result, again);
    unstable.push(...failures(result).map(({ name }) => `${runtime.name} ${file}: ${name}`));
  }
  return { results: [...results.values()], unstable };
}

/** @param {Entry} entry */
function failure({ where, name, detail }) {
  return `${paint("red", "FAILED")} ${where}: ${name}\n${detail.replace(/^/gm, "    ")}`;
}

/** @param {import("./check.mjs").CheckResult[]} checks @returns {Tally} */
function tallyChecks(checks) {
  const entries = (/** @type {string} */ outcome) =>
    checks.filter((check) => check.outcome === outcome).map((
      { name, detail },
    ) => ({ where: "checks", name, detail }));
  return {
    passed: entries("passed").length,
    failed: entries("failed"),
    skipped: entries("skipped"),
  };
}

/**
 * @param {import("./suites.mjs").FileResult[]} results
 * @param {Map<import("./suites.mjs").FileResult, string[]>} lost
 * @returns {Tally}
 */
function tallyFiles(results, lost) {
  /** @type {Tally} */
  const tally = { passed: 0, failed: [], skipped: [] };
  for (const result of results) {
    const where = `${result.runtime.name} ${result.file}`;
    for (const { name, outcome, detail = "" } of result.cases) {
      if (outcome === "passed") tally.passed++;
      else tally[outcome].push({ where, name, detail });
    }
    for (const name of lost.get(result) ?? []) {
      const entry = {
        where,
        name,
        detail: "ran on another runtime, but this one does not know it",
      };
      console.log(failure(entry));
      tally.failed.push(entry);
    }
  }
  return tally;
}

/** @param {{ name: string, reason: string }[]} missing @returns {Tally} */
function tallyMissing(missing) {
  const entries = missing.map(({ name, reason }) => ({
    where: "not to be had",
    name,
    detail: reason,
  }));
  if (process.env.REQUIRE_ALL !== "1") {
    return { passed: 0, failed: [], skipped: entries };
  }
  for (const entry of entries) console.log(failure(entry));
  return { passed: 0, failed: entries, skipped: [] };
}

/** @param {Map<string, Tally>} tallies @param {string[]} unstable @param {number} ms */
function report(tallies, unstable, ms) {
  const all = [...tallies.values()];
  const failed = all.flatMap((tally) => tally.failed);
  const skipped = all.flatMap((tally) => tally.skipped);
  const passed = all.reduce((sum, tally) => sum + tally.passed, 0);
  console.log("");
  if (skipped.length > 0) {
    console.log(`${paint("yellow", "Skipped")}\n${skippedLines(skipped).join("\n")}\n`);
  }
  if (failed.length > 0) {
    console.log(
      `${paint("red", "Failed")}\n${failed.map(({ where, name }) => `  ${where}: ${name}`).join("\n")}\n`,
    );
  }
  if (unstable.length > 0) {
    const lines = unstable.map((line) => `  ${line}`).join("\n");
    console.log(`${paint("yellow", "Unstable: failed, and passed when run again")}\n${lines}\n`);
  }
  for (const [name, tally] of tallies) {
    const count = tally.passed + tally.failed.length + tally.skipped.length;
    if (count > 0) {
      console.log(
        `${
          name.padEnd(16)
        } ${tally.passed} passed, ${tally.failed.length} failed, ${tally.skipped.length} skipped`,
      );
    }
  }
  console.log(`in ${seconds(ms)}\n`);
  console.log(`${passed} passed, ${failed.length} failed, ${skipped.length} skipped`);
  return failed.length > 0 || passed === 0 ? 1 : 0;
}

/**
 * Each skipped test once, with the places it was skipped in. Not every runtime reports the reason: then it is the one
 * that another has.
 *
 * @param {Entry[]} skipped
 */
function skippedLines(skipped) {
  /** @type {Map<string, { reason: string, places: string[] }>} */
  const byTest = new Map();
  for (const { where, name, detail } of skipped) {
    const [, runtime = where, file = ""] = /^(\S+ \S+) (tests\/\S+)$/.exec(where) ?? [];
    const test = file ? `${file}: ${name}` : name;
    const entry = byTest.get(test) ?? { reason: "", places: [] };
    entry.reason ||= detail;
    entry.places.push(runtime);
    byTest.set(test, entry);
  }
  return [...byTest].map(([test, { reason, places }]) =>
    `  ${test} — ${reason || "no reason given"} (${places.join(", ")})`
  );
}
