import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startScript } from "../../support/process.ts";

const echo = new URL("./echo.ts", import.meta.url);

describe("a script as a process of its own", () => {
  test("runs on the runtime that runs the test, and talks in lines", async () => {
    const script = startScript(echo, {
      args: ["one"],
      env: { COLOR: "green" },
    });
    const sameRuntime = `${"Deno" in globalThis} ${"Bun" in globalThis}`;
    assert.equal(await script.line("ready"), `ready one green ${sameRuntime}`);
    script.send("a");
    script.send("b");
    assert.equal(await script.line("heard"), "heard a");
    assert.equal(await script.line("heard"), "heard b");
    script.send("end");
    assert.deepEqual(await script.ended, { code: 7, signal: null });
  });

  test("is gone after kill9", async () => {
    const script = startScript(echo);
    await script.line("ready");
    await script.kill9();
    assert.equal((await script.ended).signal, "SIGKILL");
    await assert.rejects(script.line("heard"), /ended before it said "heard"/);
  });

  test("says nothing while it is frozen; the line comes to who asks after", async () => {
    const script = startScript(echo);
    await script.line("ready");
    script.sigstop();
    script.send("late");
    await assert.rejects(script.line("heard", { withinMs: 200 }), /"heard" was not said after 200 ms/);
    script.sigcont();
    assert.equal(await script.line("heard"), "heard late");
    await script.terminate();
  });
});
