/**
 * A progress bar on standard error, drawn only on a terminal.
 *
 * @module
 */
import process from "node:process";

/** A bar. */
export interface Progress {
  update(done: number): void;
  end(): void;
}

/** Starts a bar of `total` steps. */
export function progress(label: string, total: number): Progress {
  const shown = process.stderr.isTTY === true;
  return {
    update(done) {
      if (!shown) return;
      const filled = Math.round(done / Math.max(1, total) * 30);
      process.stderr.write(`\r${label} [${"#".repeat(filled)}${".".repeat(30 - filled)}] ${done}/${total}`);
    },
    end() {
      if (shown) process.stderr.write(`\r${" ".repeat(label.length + 60)}\r`);
    },
  };
}
