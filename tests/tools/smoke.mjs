/**
 * Packs the library as npm would publish it, installs the archive into an empty project with nothing but its own
 * dependencies, and imports every export there with this Node.
 *
 * @module
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { pathToFileURL } from "node:url";
import { ROOT } from "./install.mjs";
import { run } from "./process.mjs";

/** The statements that import every export and complain about an empty one. @param {string} packageJson Its text. */
export function importAll(packageJson) {
  const { exports } = JSON.parse(packageJson);
  const names = Object.keys(exports).filter((key) => key !== "./package.json")
    .map((key) => `millstream${key.slice(1)}`);
  return names.map((name) =>
    `if (Object.keys(await import("${name}")).length === 0) throw new Error("${name} exports nothing");`
  ).join("\n");
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const folder = mkdtempSync(`${tmpdir()}/millstream-smoke-`);
  try {
    await step("npm", ["pack", "--pack-destination", folder], ROOT);
    const archive = readdirSync(folder).find((name) => name.endsWith(".tgz"));
    writeFileSync(
      `${folder}/package.json`,
      '{ "private": true, "type": "module" }\n',
    );
    await step(
      "npm",
      ["install", "--no-audit", "--no-fund", `./${archive}`],
      folder,
    );
    const script = importAll(readFileSync(`${folder}/node_modules/millstream/package.json`, "utf8"));
    await step(process.execPath, ["--input-type=module", "--eval", script], folder);
    console.log(`${archive} works on Node ${process.version}`);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @param {string} command @param {string[]} args @param {string} cwd */
async function step(command, args, cwd) {
  const { code, output } = await run(command, args, { cwd });
  if (code === 0) return;
  console.error(output);
  throw new Error(`${command} ${args[0]} ended with ${code}`);
}
