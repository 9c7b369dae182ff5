/**
 * `npm run bench -- [arguments]`: gets the servers as the tests do, compiles, and runs `bench/main.ts` with the arguments.
 *
 * ```
 * npm run bench -- --runtime=bun
 * ```
 *
 * `--runtime` is node24 by default, and is not handed on.
 *
 * @module
 */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { compile } from "./compile.mjs";
import { installPeers, installTools, ROOT } from "./install.mjs";
import { cleanUp, cleanUpOnSignals, onEnd } from "./process.mjs";
import { findRuntimes } from "./runtimes.mjs";
import { startServices } from "./services.mjs";

cleanUpOnSignals();
process.exitCode = await main().catch((error) => {
  console.error(error instanceof Error ? error.message : error);
  return 1;
});
await cleanUp();
process.exit();

async function main() {
  const flag = process.argv.find((argument) => argument.startsWith("--runtime="));
  const args = process.argv.slice(2).filter((argument) => argument !== flag);
  await installTools();
  await installPeers();
  const { runtimes: [runtime], missing } = await findRuntimes([flag?.slice("--runtime=".length) ?? "node24"]);
  if (!runtime) throw new Error(`Cannot run the benchmarks: ${missing[0]?.reason}`);
  const { output } = await compile();
  const main = runtime.id.startsWith("node") ? "tests/.build/bench/main.js" : "bench/main.ts";
  if (!existsSync(`${ROOT}/${main}`)) throw new Error(`Cannot find ${main}\n${output}`);
  const { env, had, missing: absent } = await startServices(args);
  // Not on standard output: that is the benchmarks' own, and with --json read by a program.
  for (const line of had) console.error(line);
  for (const { name, reason } of absent) console.error(`without ${name}: ${reason}`);
  const run = runtime.id === "deno" ? ["run", "-A", "--no-check", "--no-lock"] : [];
  return await follow(runtime.binary, [...run, main, ...args], { ...process.env, ...env });
}

/** Runs a command on this terminal. @param {string} command @param {string[]} args @param {NodeJS.ProcessEnv} env */
function follow(command, args, env) {
  const child = spawn(command, args, { cwd: ROOT, env, stdio: "inherit" });
  onEnd(() => child.kill("SIGKILL"));
  return new Promise((resolve) => {
    child.once("error", (error) => {
      console.error(error.message);
      resolve(127);
    });
    child.once("exit", (code, signal) => resolve(signal ? 1 : code ?? 1));
  });
}
