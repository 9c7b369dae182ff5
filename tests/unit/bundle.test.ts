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

/** Loaded with their first use: by the embedded default, by what runs by itself, and by what few need. */
const ON_DEMAND = [
  "../messaging/batches.ts",
  "../messaging/dead_letters.ts",
  "../memory/store.ts",
  "../cqrs/once_by_id.ts",
  "./outside.ts",
  "./starting.ts",
  "../cqrs/remote/send.ts",
  "../cqrs/remote/serve.ts",
  "../sagas/runtime.ts",
  "../sourcing/caught_up.ts",
  "../sourcing/handle_command.ts",
  "./inline_append.ts",
  "../sourcing/projection_runner.ts",
  "../sourcing/projections.ts",
];

describe("the core, bundled for a browser", () => {
  test("needs nothing from outside", () => {
    assert.deepEqual(bundle("mod.ts").outside, []);
  });

  test("stays under 15 KB compressed, without what is loaded on demand", () => {
    const size =
      gzipSync(bundle("mod.ts", ...ON_DEMAND.map((path) => `--external:${path}`)).code, { level: 9 }).length;
    console.log(`# mod.ts bundled, minified and compressed: ${size} bytes`);
    assert.ok(size <= LIMIT, `${size} bytes, the limit is ${LIMIT}`);
  });
});

describe("each adapter, bundled without its driver", () => {
  for (const name of ["rabbitmq", "nats"]) {
    test(`${name} stays under 16 KB compressed, with what it takes of the core`, () => {
      const drivers = ["--external:amqplib", "--external:@nats-io/*"];
      const size = gzipSync(bundle(`adapters/${name}/mod.ts`, ...drivers).code, { level: 9 }).length;
      console.log(`# adapters/${name} bundled, minified and compressed: ${size} bytes`);
      assert.ok(size <= 16 * 1024, `${size} bytes`);
    });
  }
});

/** Bundles with esbuild, which fails on an import it cannot resolve. */
function bundle(
  entry: string,
  ...more: readonly string[]
): { readonly code: Uint8Array; readonly outside: string[] } {
  const folder = mkdtempSync(join(tmpdir(), "bundle-"));
  try {
    const [code, meta] = [join(folder, "out.js"), join(folder, "meta.json")];
    const args = [
      "--bundle",
      "--minify",
      "--format=esm",
      "--platform=browser",
      "--target=es2022",
      "--log-level=warning",
    ];
    const esbuild = join(ROOT, "tests/node_modules/.bin/esbuild");
    execFileSync(esbuild, [entry, ...args, ...more, `--outfile=${code}`, `--metafile=${meta}`], {
      cwd: ROOT,
    });
    const { inputs } = JSON.parse(readFileSync(meta, "utf8")) as { inputs: Record<string, unknown> };
    return {
      code: readFileSync(code),
      outside: Object.keys(inputs).filter((path) => !/^(mod\.ts|src\/)/.test(path)),
    };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
