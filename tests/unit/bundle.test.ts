import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { ROOT } from "../support/sources.ts";

/** What the core may weigh, compressed, in bytes. */
const LIMIT = 15 * 1024;

describe("the core, bundled for a browser", () => {
  test("needs nothing from outside and stays under 15 KB compressed; the store in memory is loaded when it is used", () => {
    const { core, onDemand, outside } = bundle("mod.ts");
    console.log(`# mod.ts bundled, minified and compressed: ${core} bytes, and ${onDemand} loaded on demand`);
    assert.deepEqual(outside, []);
    assert.ok(core <= LIMIT, `${core} bytes, the limit is ${LIMIT}`);
  });
});

interface Metafile {
  readonly inputs: Record<string, unknown>;
  readonly outputs: Record<
    string,
    { readonly entryPoint?: string; readonly imports: { readonly path: string; readonly kind: string }[] }
  >;
}

/** Bundles with esbuild, which fails on an import it cannot resolve, and weighs what is loaded with the entry and what later. */
function bundle(
  entry: string,
): { readonly core: number; readonly onDemand: number; readonly outside: string[] } {
  const folder = mkdtempSync(join(tmpdir(), "bundle-"));
  try {
    const meta = join(folder, "meta.json");
    const args = [
      "--bundle",
      "--splitting",
      "--minify",
      "--format=esm",
      "--platform=browser",
      "--target=es2022",
      "--log-level=warning",
    ];
    const esbuild = join(ROOT, "tests/node_modules/.bin/esbuild");
    execFileSync(esbuild, [entry, ...args, `--outdir=${folder}`, `--metafile=${meta}`], { cwd: ROOT });
    const { inputs, outputs } = JSON.parse(readFileSync(meta, "utf8")) as Metafile;
    const loaded = new Set<string>();
    const load = (output: string): void => {
      if (loaded.has(output)) return;
      loaded.add(output);
      for (const { path, kind } of outputs[output]?.imports ?? []) {
        if (kind === "import-statement") load(path);
      }
    };
    load(Object.keys(outputs).find((output) => outputs[output]?.entryPoint === entry) ?? "");
    const weigh = (paths: string[]): number =>
      paths.reduce((sum, path) => sum + gzipSync(readFileSync(join(ROOT, path)), { level: 9 }).length, 0);
    return {
      core: weigh([...loaded]),
      onDemand: weigh(Object.keys(outputs).filter((output) => !loaded.has(output))),
      outside: Object.keys(inputs).filter((path) => !/^(mod\.ts|src\/)/.test(path)),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
