/**
 * Says how far the run is: a bar that stays in place on a terminal, a line now and then elsewhere.
 *
 * @module
 */
import { styleText } from "node:util";

const TTY = process.stdout.isTTY === true;

/** @param {Parameters<typeof styleText>[0]} style @param {string} text */
export function paint(style, text) {
  return TTY && !process.env.NO_COLOR ? styleText(style, text) : text;
}

/** @param {number} ms */
export function seconds(ms) {
  return `${(ms / 1_000).toFixed(1)} s`;
}

/** Shows the progress of several tracks, such as runtimes. */
export class Progress {
  /** @type {Map<string, { total: number, done: number, failed: number, current: Set<string> }>} */
  #tracks = new Map();
  #shown = 0;
  #lastLine = 0;

  /** @param {string} name @param {number} total */
  add(name, total) {
    this.#tracks.set(name, { total, done: 0, failed: 0, current: new Set() });
  }

  /** @param {string} name @param {string} item */
  begin(name, item) {
    this.#tracks.get(name)?.current.add(item);
    this.#show();
  }

  /** @param {string} name @param {string} item @param {number} failed */
  end(name, item, failed) {
    const track = this.#tracks.get(name);
    if (!track) return;
    track.current.delete(item);
    track.done++;
    track.failed += failed;
    this.#show();
    if (
      !TTY &&
      (track.done === track.total ||
        performance.now() - this.#lastLine > 10_000)
    ) {
      this.#lastLine = performance.now();
      const failures = track.failed > 0 ? `, ${track.failed} failed` : "";
      console.log(`${name}: ${track.done} of ${track.total} files${failures}`);
    }
  }

  /** Prints lines above the bars. @param {string} text */
  print(text) {
    this.#clear();
    console.log(text);
    this.#show();
  }

  /** Takes the bars away. */
  close() {
    this.#clear();
    this.#tracks.clear();
  }

  #show() {
    if (!TTY) return;
    this.#clear();
    const width = process.stdout.columns || 80;
    for (const [name, { total, done, failed, current }] of this.#tracks) {
      const filled = total === 0 ? 20 : Math.round((done / total) * 20);
      const bar = paint(failed > 0 ? "red" : "green", "█".repeat(filled)) +
        "░".repeat(20 - filled);
      const text = ` ${done}/${total}${failed > 0 ? ` ${failed} failed` : ""}  ${[...current].join(" ")}`;
      process.stdout.write(`${name.padEnd(16)} ${bar}${text.slice(0, Math.max(0, width - 40))}\n`);
      this.#shown++;
    }
  }

  #clear() {
    if (this.#shown > 0) process.stdout.write(`\x1b[${this.#shown}A\x1b[J`);
    this.#shown = 0;
  }
}
