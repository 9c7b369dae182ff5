/**
 * Child processes that cannot outlive the run: each gets its own process group, which is killed as a whole when its
 * time is up, when it has ended and left something behind, and when the run itself is stopped.
 *
 * @module
 */
import { spawn } from "node:child_process";

/** @type {Set<number>} */
const groups = new Set();
/** @type {(() => unknown)[]} */
const cleanups = [];

/**
 * @typedef {object} Ended
 * @property {number | null} code Exit code, null if a signal ended it.
 * @property {string | null} signal
 * @property {boolean} late Whether it was killed because its time was up.
 * @property {string} output What it wrote to stdout and stderr, in order.
 * @property {string} stdout
 * @property {number} ms
 */

/**
 * Runs a command to its end.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, limitMs?: number, lastWords?: NodeJS.Signals }} [options] `limitMs`: how
 * long it may take, 10 minutes by default. `lastWords`: a signal that is sent half a second before it is killed for
 * being late, so that it can say what it waits for.
 * @returns {Promise<Ended>} Never rejects: a command that cannot be started ends with code 127.
 */
export function run(command, args, { cwd, env = process.env, limitMs = 600_000, lastWords } = {}) {
  return new Promise((resolve) => {
    const started = performance.now();
    const child = spawn(command, args, {
      cwd,
      env,
      detached: true,
      stdio: ["ignore", "pipe", "pipe"],
    });
    const { pid } = child;
    if (pid) groups.add(pid);
    let output = "";
    let stdout = "";
    let late = false;
    let done = false;
    const timer = setTimeout(() => {
      late = true;
      if (lastWords) child.kill(lastWords);
      setTimeout(() => killGroup(pid), lastWords ? 500 : 0);
    }, limitMs);
    /** @param {number | null} code @param {string | null} signal */
    const end = (code, signal) => {
      if (done) return;
      done = true;
      clearTimeout(timer);
      killGroup(pid);
      if (pid) groups.delete(pid);
      if (stopping) return; // whoever waits for it has nothing more to say
      resolve({
        code,
        signal,
        late,
        output,
        stdout,
        ms: performance.now() - started,
      });
    };
    child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
    child.on("error", (error) => {
      output += `${error.message}\n`;
      end(127, null);
    });
    // "close" waits for everyone who holds the pipes. Whoever still does a moment after the exit was left behind.
    child.on("exit", (code, signal) => {
      setTimeout(() => killGroup(pid), 2_000).unref();
      child.on("close", () => end(code, signal));
      setTimeout(() => end(code, signal), 5_000).unref();
    });
  });
}

/**
 * Runs `cleanup` when the run ends, whichever way it ends. Last added runs first.
 *
 * @param {() => unknown} cleanup
 */
export function onEnd(cleanup) {
  cleanups.push(cleanup);
}

/** Runs all that was handed to {@link onEnd}, once. */
export function cleanUp() {
  ending ??= runCleanups();
  return ending;
}

/** @type {Promise<void> | undefined} */
let ending;
let stopping = false;

async function runCleanups() {
  for (const pid of groups) killGroup(pid);
  while (cleanups.length > 0) {
    try {
      await cleanups.pop()?.();
    } catch (error) {
      console.error(`Clean-up failed: ${error instanceof Error ? error.message : error}`);
    }
  }
}

/** Makes signals and stray errors of this process end in {@link cleanUp}. */
export function cleanUpOnSignals() {
  /** @param {number} code */
  const stop = async (code) => {
    if (stopping) return;
    stopping = true;
    await cleanUp();
    process.exit(code);
  };
  process.on("SIGINT", () => stop(130));
  process.on("SIGTERM", () => stop(143));
  process.on("SIGHUP", () => stop(129));
  for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.on(event, (error) => {
      console.error(error);
      stop(1);
    });
  }
}

/** @param {number | undefined} pid */
function killGroup(pid) {
  if (!pid) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // nobody left in it
  }
}
