// A script for process.test.ts: says that it is ready, repeats what it hears, ends on "end".
import process from "node:process";
import { createInterface } from "node:readline";

const say = (line: string): void => void process.stdout.write(`${line}\n`);

createInterface({ input: process.stdin }).on("line", (line) => {
  if (line === "end") process.exit(7);
  say(`heard ${line}`);
});
say(`ready ${process.argv[2]} ${process.env.COLOR} ${"Deno" in globalThis} ${"Bun" in globalThis}`);
