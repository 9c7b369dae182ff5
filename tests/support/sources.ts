/**
 * The project's own files, as text.
 *
 * @module
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** The project's folder, whether this runs from its source or compiled in `tests/.build`. */
export const ROOT: string = fileURLToPath(new URL("../../", import.meta.url))
  .replace(/\/(tests\/\.build\/)?$/, "");

/** A file of the project. */
export function readProject(path: string): string {
  return readFileSync(`${ROOT}/${path}`, "utf8");
}

/** Whether the project has a file. */
export function inProject(path: string): boolean {
  return existsSync(`${ROOT}/${path}`);
}

/** All TypeScript that is published: `mod.ts`, `src` and `adapters`, by path. */
export function librarySources(): Map<string, string> {
  const sources = new Map([["mod.ts", readProject("mod.ts")]]);
  for (const folder of ["src", "adapters"]) {
    if (!inProject(folder)) continue;
    for (
      const name of readdirSync(`${ROOT}/${folder}`, {
        recursive: true,
        encoding: "utf8",
      }).sort()
    ) {
      if (name.endsWith(".ts")) {
        sources.set(`${folder}/${name}`, readProject(`${folder}/${name}`));
      }
    }
  }
  return sources;
}
