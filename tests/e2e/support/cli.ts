/**
 * The `millstream` command as its users run it: a process of its own, spoken to in HTTP only.
 *
 * @module
 */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { type ScriptProcess, startScript } from "../../support/process.ts";

/** A command that serves. */
export interface Cli extends AsyncDisposable {
  readonly process: ScriptProcess;
  /** Where it listens, without a slash at the end. */
  readonly address: string;
}

/** What a command is started with. */
export interface CliOptions {
  /** Folder of the embedded database. */
  readonly data?: string;
  readonly redis?: string;
  readonly postgres?: string;
  /** Address of any broker. */
  readonly broker?: string;
}

/** A start includes making a database cluster, on a machine that does other things as well. */
export const START_MS = 60_000;

/** Starts the command with any arguments, and without the servers of the test run. */
export function runCli(
  args: readonly string[],
  { data, redis, postgres, broker }: CliOptions = {},
): ScriptProcess {
  return startScript(new URL("../../../src/cli/main.ts", import.meta.url), {
    args,
    env: {
      ...(data === undefined ? {} : { DATA_DIR: data }),
      REDIS_URL: redis ?? "",
      DATABASE_URL: postgres ?? "",
      BROKER_URL: broker ?? "",
      PORT: "",
      HOST: "",
    },
  });
}

/** Starts the demo on a free port. */
export async function startDemo(options: CliOptions, args: readonly string[] = ["--no-feed"]): Promise<Cli> {
  return await serving(runCli(["demo", "--port=0", ...args], options), "Millstream demo on ");
}

/** Waits until a command serves. */
export async function serving(started: ScriptProcess, said: string): Promise<Cli> {
  try {
    const line = await started.line(said, { withinMs: START_MS });
    const address = /^http:\/\/[\w.]+:\d+/.exec(line.slice(said.length))?.[0];
    assert.ok(address, line);
    return { process: started, address, [Symbol.asyncDispose]: () => started[Symbol.asyncDispose]() };
  } catch (error) {
    await started.kill9();
    throw error;
  }
}

/** Sends SIGTERM and resolves to how it ended, by itself or not. */
export async function toldToEnd({ process: { pid, ended } }: Cli): ScriptProcess["ended"] {
  process.kill(pid, "SIGTERM"); // after ChildProcess.kill(), Deno takes every end for one by the signal
  return await ended;
}

/** A folder that is gone when the test process is. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "demo-"));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
  return folder;
}
