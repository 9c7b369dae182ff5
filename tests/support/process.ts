/**
 * Scripts of the tests as processes of their own, on the runtime that runs the test: for what one process cannot show,
 * such as death by SIGKILL in the middle of something.
 *
 * @module
 */
import { spawn } from "node:child_process";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { within } from "./wait.ts";

/** A script that runs. Both sides talk in lines. */
export interface ScriptProcess extends AsyncDisposable {
  readonly pid: number;
  /** Settles when the process has ended. Never rejects. */
  readonly ended: Promise<
    { readonly code: number | null; readonly signal: string | null }
  >;
  /** Writes one line to its standard input. */
  send(line: string): void;
  /**
   * The next line of its standard output that starts with `prefix`; lines before it are dropped.
   * Rejects after `withinMs` (10 seconds by default), or when the process ends first, with what it wrote.
   */
  line(prefix?: string, options?: { readonly withinMs?: number }): Promise<string>;
  /** All it wrote so far, both streams. */
  output(): string;
  /** Ends it at once; resolves when it is gone. */
  kill9(): Promise<void>;
  /** Asks it to end; resolves when it is gone. */
  terminate(): Promise<void>;
  /** Freezes it. */
  sigstop(): void;
  /** Goes on after {@linkcode sigstop}. */
  sigcont(): void;
}

/** Options of {@linkcode startScript}. */
export interface ScriptOptions {
  readonly args?: readonly string[];
  /** Added to the environment of this process. */
  readonly env?: Readonly<Record<string, string>>;
}

/**
 * Starts a script: `startScript(new URL("./worker.ts", import.meta.url))`. Name the `.ts` file; where the tests run
 * compiled, its `.js` is taken.
 */
export function startScript(script: URL, { args = [], env = {} }: ScriptOptions = {}): ScriptProcess {
  const child = spawn(process.execPath, [...runArguments(), scriptPath(script), ...args], {
    env: { ...process.env, ...env },
    stdio: ["pipe", "pipe", "pipe"],
  });
  const lines: string[] = [];
  let output = "";
  let gone = false;
  let wake = (): void => {};
  const ended = new Promise<{ code: number | null; signal: string | null }>(
    (resolve) => {
      // "close": after the last line was read.
      child.once("close", (code, signal) => {
        gone = true;
        wake();
        resolve({ code, signal });
      });
      child.once("error", (error) => output += error.message);
    },
  );
  createInterface({ input: child.stdout }).on("line", (line) => {
    output += `${line}\n`;
    lines.push(line);
    wake();
  });
  child.stderr.on("data", (chunk) => output += String(chunk));
  child.stdin.on("error", () => {}); // it may be gone
  const onExit = (): void => void child.kill("SIGKILL");
  process.once("exit", onExit);
  ended.then(() => process.removeListener("exit", onExit));

  /** Stops taking lines once `wanted` says so, or a wait that timed out would swallow the line of the next one. */
  async function nextLine(prefix: string, wanted: () => boolean): Promise<string> {
    while (wanted()) {
      for (let line = lines.shift(); line !== undefined; line = lines.shift()) {
        if (line.startsWith(prefix)) return line;
      }
      if (gone) throw new Error(`It ended before it said "${prefix}"`);
      await new Promise<void>((resolve) => wake = resolve);
    }
    return "";
  }
  async function end(signal: NodeJS.Signals): Promise<void> {
    child.kill(signal);
    await ended;
  }
  return {
    pid: child.pid ?? 0,
    ended,
    send: (line) => void child.stdin.write(`${line}\n`),
    async line(prefix = "", { withinMs = 10_000 } = {}) {
      let waiting = true;
      try {
        return await within(
          withinMs,
          nextLine(prefix, () => waiting),
          `"${prefix}" was not said`,
        );
      } catch (cause) {
        waiting = false;
        throw new Error(
          `${cause instanceof Error ? cause.message : cause}\n${output}`,
          { cause },
        );
      }
    },
    output: () => output,
    kill9: () => end("SIGKILL"),
    terminate: () => end("SIGTERM"),
    sigstop: () => void process.kill(child.pid ?? 0, "SIGSTOP"),
    sigcont: () => void process.kill(child.pid ?? 0, "SIGCONT"),
    [Symbol.asyncDispose]: () => end("SIGKILL"),
  };
}

/** `node`, `bun` or `deno`: which runtime runs this. */
export function runtimeName(): "node" | "bun" | "deno" {
  return "Deno" in globalThis ? "deno" : "Bun" in globalThis ? "bun" : "node";
}

function runArguments(): string[] {
  return runtimeName() === "deno" ? ["run", "-A", "--no-check", "--no-lock", "--quiet"] : [];
}

function scriptPath(script: URL): string {
  const path = fileURLToPath(script);
  return import.meta.url.endsWith(".js") ? path.replace(/\.ts$/, ".js") : path;
}
