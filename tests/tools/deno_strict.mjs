/**
 * Loaded before each test file on Deno, which by itself reports success for a file that throws while it is loaded, and
 * for errors that nobody waits for. Node and Bun fail on those.
 *
 * @module
 */
import { appendFileSync } from "node:fs";
import process from "node:process";

for (const type of ["error", "unhandledrejection"]) {
  globalThis.addEventListener(type, (event) => {
    const { error, reason } = /** @type {{ error?: any, reason?: any }} */ (event);
    const what = error ?? reason;
    const file = process.env.MILLSTREAM_STRAY;
    if (file) appendFileSync(file, `${what?.stack ?? what}\n`);
  });
}
