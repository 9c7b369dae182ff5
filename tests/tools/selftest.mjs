/**
 * Whether the test command would notice: a crash, a hang, a lost test, a report of each runtime's own kind.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, describe, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { ROOT } from "./install.mjs";
import { parseJunit } from "./junit.mjs";
import { run } from "./process.mjs";
import { findRuntimes } from "./runtimes.mjs";
import { lostTests, runFile } from "./suites.mjs";

const folder = mkdtempSync(`${tmpdir()}/millstream-selftest-`);
after(() => rmSync(folder, { recursive: true, force: true }));

describe("a report is read", () => {
  test("of Node", () => {
    const cases = parseJunit(`<?xml version="1.0" encoding="utf-8"?>
      <testsuites>
        <testsuite name="outer &amp; co" time="0.3" tests="3" failures="1" skipped="1" hostname="vm">
          <testcase name="passes &lt;ok>" time="0.001" classname="test"/>
          <testcase name="is skipped" time="0" classname="test"><skipped type="skipped" message="no redis"/></testcase>
          <testcase name="fails" time="0.1" classname="test" failure="1 !== 2">
            <failure type="testCodeFailure" message="1 !== 2">
[Error [ERR_TEST_FAILURE]: 1 !== 2] {
  code: 'ERR_TEST_FAILURE',
  cause: AssertionError [ERR_ASSERTION]: 1 !== 2
      at TestContext.&lt;anonymous> (file:///a.js:11:32)
      at Test.run (node:internal/test_runner/test:796:25)
}
            </failure>
          </testcase>
        </testsuite>
        <testcase name="later" time="0" classname="test"><skipped type="todo" message="true"/></testcase>
        <!-- tests 4 -->
      </testsuites>`);
    assert.deepEqual(cases.map(({ name, outcome }) => [name, outcome]), [
      ["outer & co > passes <ok>", "passed"],
      ["outer & co > is skipped", "skipped"],
      ["outer & co > fails", "failed"],
      ["later", "skipped"],
    ]);
    assert.equal(cases[1]?.detail, "no redis");
    assert.match(cases[2]?.detail ?? "", /^AssertionError.*1 !== 2\n.*a\.js:11:32\)$/);
    assert.equal(cases[3]?.detail, "todo");
  });

  test("of Bun", () => {
    const cases = parseJunit(`<testsuites name="bun test" tests="3">
      <testsuite name="a/x.test.ts" file="a/x.test.ts" tests="3">
        <testsuite name="outer" file="a/x.test.ts" line="4" tests="2">
          <testcase name="passes &quot;so&quot;" classname="outer" time="0.1" file="a/x.test.ts" />
          <testcase name="is skipped" classname="outer" time="0" file="a/x.test.ts"><skipped /></testcase>
        </testsuite>
        <testcase name="fails" classname="" time="0.01" file="a/x.test.ts">
          <failure type="Error" message="boom ]]&gt;">Error: boom&#10;      at a/x.test.ts:15:95&#10;</failure>
        </testcase>
      </testsuite>
    </testsuites>`);
    assert.deepEqual(cases, [
      { name: 'outer > passes "so"', outcome: "passed" },
      { name: "outer > is skipped", outcome: "skipped", detail: "" },
      { name: "fails", outcome: "failed", detail: "Error: boom\n      at a/x.test.ts:15:95" },
    ]);
  });

  test("of Deno, where suites stand among their tests", () => {
    const cases = parseJunit(`<testsuites name="deno test" tests="5" failures="3">
      <testsuite name="./a/x.test.ts" tests="3">
        <testcase name="outer" classname="./a/x.test.ts" time="0.3">
          <failure message="1 test step failed">1 test step failed.</failure>
        </testcase>
        <testcase name="hooked" classname="./a/x.test.ts" time="0.3"><failure message="hook">hook</failure></testcase>
        <testcase name="cancelled" classname="./a/x.test.ts" time="0"><error message="Cancelled"/></testcase>
      </testsuite>
      <testsuite name="ext:deno_node/testing.ts" tests="2">
        <testcase name="outer &gt; passes" classname="ext:deno_node/testing.ts" time="0.001"></testcase>
        <testcase name="outer &gt; fails" classname="x" time="0.001"><failure message="m">Error: m</failure></testcase>
        <testcase name="hooked &gt; passes" classname="x" time="0.001"></testcase>
      </testsuite>
    </testsuites>`);
    assert.deepEqual(cases.map(({ name, outcome }) => [name, outcome]), [
      ["hooked (the suite itself)", "failed"],
      ["cancelled", "failed"],
      ["outer > passes", "passed"],
      ["outer > fails", "failed"],
      ["hooked > passes", "passed"],
    ]);
  });
});

describe("a test file fails", () => {
  const passed = '<testsuites><testcase name=\\"one\\"/></testsuites>';
  /** @type {[why: string, script: string, detail: RegExp][]} */
  const scripts = [
    ["that crashes without a report", "echo last words; exit 3", /no tests found, exit code 3\nlast words/],
    ["that has no tests", 'echo "<testsuites/>" > $REPORT', /no tests found, exit code 0/],
    ["that does not end", "sleep 60 & sleep 60", /did not end within 0\.5 s/],
    ["that is killed", `echo "${passed}" > $REPORT; kill -9 $$`, /was ended by SIGKILL/],
    ["that ends with an error after its tests passed", `echo "${passed}" > $REPORT; exit 1`, /exit code 1/],
    [
      "that leaves an error behind",
      `echo "${passed}" > $REPORT; echo oops > $MILLSTREAM_STRAY`,
      /nobody waits.*oops/s,
    ],
  ];
  for (const [why, script, detail] of scripts) {
    test(why, async () => {
      const { cases } = await runScript(script);
      const failed = cases.filter(({ outcome }) => outcome === "failed");
      assert.equal(failed.length, 1);
      assert.equal(failed[0]?.name, "(the file itself)");
      assert.match(failed[0]?.detail ?? "", detail);
    });
  }

  test("on Deno that throws while it is loaded, or later where nobody waits", async () => {
    const { runtimes: [deno] } = await findRuntimes(["deno"]);
    assert.ok(deno);
    for (const name of ["throws", "late"]) {
      const file = `tests/tools/selftest_${name}.ts`;
      const { cases } = await runFile(deno, file, {
        env: { ...process.env, TMPDIR: folder },
        limitMs: 30_000,
      });
      assert.deepEqual(cases.map(({ name, outcome }) => [name, outcome]), [
        ["passes", "passed"],
        ["(the file itself)", "failed"],
      ]);
      assert.match(cases[1]?.detail ?? "", new RegExp(`nobody waits.*${name}`, "s"));
    }
  });
});

test("a test that passes is passed, and one that was skipped has the reason its file gave", async () => {
  const report =
    '<testsuites><testcase name=\\"one\\"/><testcase name=\\"two\\"><skipped/></testcase></testsuites>';
  const { cases } = await runScript(`echo "${report}" > $REPORT; echo no redis >> $MILLSTREAM_SKIPS`);
  assert.deepEqual(cases, [
    { name: "one", outcome: "passed" },
    { name: "two", outcome: "skipped", detail: "no redis" },
  ]);
});

test("a test that one runtime ran and another does not know is lost; one it skipped is not", () => {
  /** @param {import("./junit.mjs").Case[]} cases @returns {any} */
  const result = (cases) => ({ file: "x", cases, output: "", ms: 0 });
  const one = result([
    { name: "a", outcome: "passed" },
    { name: "s > b", outcome: "passed" },
    { name: "t > c", outcome: "failed" },
  ]);
  const other = result([{ name: "a", outcome: "passed" }, { name: "s", outcome: "skipped" }]);
  const broken = result([{ name: "(the file itself)", outcome: "failed" }]);
  assert.deepEqual([...lostTests([one, other, broken])], [[other, ["t > c"]]]);
});

test("a command that is too late is killed with all it started", async () => {
  const pidFile = `${folder}/pid`;
  const { late, ms } = await run("sh", ["-c", `sleep 60 & echo $! > ${pidFile}; wait`], { limitMs: 300 });
  assert.ok(late && ms < 10_000);
  const pid = readFileSync(pidFile, "utf8").trim();
  const state = () =>
    existsSync(`/proc/${pid}/stat`) ? readFileSync(`/proc/${pid}/stat`, "utf8").split(" ")[2] : "gone";
  for (let looks = 0; !["gone", "Z"].includes(state() ?? "") && looks < 100; looks++) await sleep(20);
  assert.ok(["gone", "Z"].includes(state() ?? ""), `process ${pid} is in state ${state()}`);
});

test("the packages of npm test are what the lock file says", async () => {
  const { runtimes, missing } = await findRuntimes([]);
  assert.deepEqual(missing, []);
  assert.deepEqual(runtimes.map(({ id }) => id), ["node", "node24", "bun", "deno"]);
});

/** Runs a shell script in the place of a test runner. @param {string} script */
function runScript(script) {
  /** @type {import("./runtimes.mjs").Runtime} */
  const shell = {
    id: `selftest-${process.pid}`,
    name: "sh",
    binary: "/bin/sh",
    args: (_file, report) => ["-c", `REPORT=${report}; ${script}`],
  };
  after(() => rmSync(`${ROOT}/tests/.build/reports/${shell.id}`, { recursive: true, force: true }));
  return runFile(shell, "tests/unit/x.test.ts", { env: { ...process.env, TMPDIR: folder }, limitMs: 500 });
}
