import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { packageOf, reach, violations } from "../support/architecture.ts";
import { importsOf } from "../support/imports.ts";
import { librarySources, readProject } from "../support/sources.ts";

const sources = librarySources();

describe("the library", () => {
  test("imports only what the table of its folders allows, and uses nothing of one runtime", () => {
    assert.deepEqual(violations(sources), []);
  });

  test("reaches no package and no node: module from mod.ts", () => {
    assert.deepEqual([...reach("mod.ts", sources).outside], []);
  });

  test("imports no package that is not installed with it", () => {
    const { dependencies, peerDependencies } = JSON.parse(readProject("package.json"));
    const wrong = [...sources].flatMap(([path, source]) =>
      importsOf(source).flatMap(({ specifier, typeOnly, dynamic }) => {
        if (specifier === undefined || /^(\.|node:)/.test(specifier)) return [];
        const name = packageOf(specifier);
        const optional = name in peerDependencies && (typeOnly || dynamic);
        return name in dependencies || optional ? [] : [`${path} imports ${specifier}`];
      })
    );
    assert.deepEqual(wrong, []);
  });
});

describe("the check of the architecture", () => {
  test("knows every form of import from what only looks like one", () => {
    const source = `
      import a from "./a.ts"; import * as b from './b.ts'; import { c, type d } from "./c.ts";
      import type { E } from "./e.ts"; import "./f.ts"; export * from "./g.ts"; export * as h from "./h.ts";
      export type { I } from "./i.ts"; export { j } from "./j.ts";
      const k = await import("./k.ts"); type L = import("./l.ts").L; const m = import(name);
      // import no from "./no1.ts";
      /* import no from "./no2.ts"; */
      const no = 'import no from "./no3.ts"', re = /import "no4"/, half = a / b; /* " */ import "./n.ts";
      const text = \`import "./no5.ts" \${await import("./o.ts")} \${ { a: \`}\` } } import "./no6.ts"\`;
      export const from = 1; const from2 = "./no7.ts"; import.meta.url; x.import("./no8.ts");
      import type from "./p.ts"; import q, { r } from "./q.ts";
    `;
    const found = importsOf(source).map(({ specifier, typeOnly, dynamic }) =>
      `${specifier}${typeOnly ? " type" : ""}${dynamic ? " dynamic" : ""}`
    );
    assert.deepEqual(found, [
      "./a.ts",
      "./b.ts",
      "./c.ts",
      "./e.ts type",
      "./f.ts",
      "./g.ts",
      "./h.ts",
      "./i.ts type",
      "./j.ts",
      "./k.ts dynamic",
      "./l.ts type dynamic",
      "undefined dynamic",
      "./n.ts",
      "./o.ts dynamic",
      "./p.ts",
      "./q.ts",
    ]);
  });

  const folders = ["ports", "messaging", "sourcing", "redis", "postgres", "app"];
  const others = ["src/core/b.ts", "adapters/sqs/a.ts", ...folders.map((name) => `src/${name}/a.ts`)];
  const core = 'import "./b.ts";';
  const cases: readonly (readonly [breach: string, path: string, source: string])[] = [
    ["src/core imports src/ports/a.ts", "src/core/a.ts", 'import type { A } from "../ports/a.ts";'],
    ["src/ports imports src/messaging/a.ts", "src/ports/b.ts", 'export * from "../messaging/a.ts";'],
    [
      "src/messaging imports src/sourcing/a.ts",
      "src/messaging/b.ts",
      'import { a } from "../sourcing/a.ts";',
    ],
    [
      "src/messaging imports src/redis/a.ts dynamically",
      "src/messaging/b.ts",
      'await import("../redis/a.ts");',
    ],
    ["src/redis imports src/postgres/a.ts", "src/redis/b.ts", 'import { a } from "../postgres/a.ts";'],
    ["src/memory imports src/messaging/a.ts", "src/memory/b.ts", 'import { a } from "../messaging/a.ts";'],
    ["otherwise than as a type", "src/gateway/b.ts", 'import { type A } from "../app/a.ts";'],
    ["mod.ts imports src/redis/a.ts", "mod.ts", 'export { a } from "./src/redis/a.ts";'],
    ["adapters/nats imports adapters/sqs/a.ts", "adapters/nats/b.ts", 'import { a } from "../sqs/a.ts";'],
    ["which does not exist", "src/core/a.ts", 'import "./gone.ts";'],
    ["which does not exist", "src/core/a.ts", 'import "./b";'],
    ["imports something computed", "src/core/a.ts", "await import(name);"],
    ["imports the package ioredis", "src/postgres/b.ts", 'import { Redis } from "ioredis";'],
    [
      "imports the package hono/factory",
      "src/messaging/b.ts",
      'import { createFactory } from "hono/factory";',
    ],
    [
      "imports the package @hono/node-server",
      "src/gateway/b.ts",
      'import { serve } from "@hono/node-server";',
    ],
    ["imports node:fs", "src/redis/b.ts", 'import type { Stats } from "node:fs";'],
    ["the folder src/misc is in no rule", "src/misc/a.ts", "export {};"],
    ["uses console", "src/core/a.ts", "  console.log(1);"],
    ["uses process", "src/core/a.ts", "const home = process.env.HOME;"],
    ["uses Buffer", "src/core/a.ts", "const bytes = Buffer.from(text);"],
    ["uses Date.now()", "src/redis/b.ts", "const now = Date.now();"],
    ["uses new Date()", "src/redis/b.ts", "const now = new Date().toISOString();"],
    ["uses a timer", "src/redis/b.ts", "setTimeout(work, 5);"],
    ["uses state of the module (let)", "src/core/a.ts", "let count = 0;"],
    [
      "uses state of the module (an empty collection)",
      "src/core/a.ts",
      "const seen: Set<string> = new Set<string>();",
    ],
    ["uses class that is no error", "src/core/a.ts", "export class Manager {}"],
    ["has a <reference>", "src/core/a.ts", '/// <reference types="node" />'],
  ];
  for (const [breach, path, source] of cases) {
    test(`catches in ${path}: ${source.replaceAll('"', "'")}`, () => {
      const world = new Map(others.map((other): [string, string] => [other, "export {};"]));
      world.set(path, source);
      const found = violations(world);
      assert.equal(found.length, 1, found.join("\n"));
      const [line = ""] = found;
      assert.ok(line.startsWith(`${path}: `) && line.includes(breach), line);
    });
  }

  test("lets through what is allowed, and what is only said in text", () => {
    const world = new Map<string, string>([
      ["mod.ts", 'export * from "./src/core/a.ts";'],
      [
        "src/core/a.ts",
        `${core} const WORDS = new Set(["process.env"]); // console.log, let x = 1`,
      ],
      [
        "src/core/b.ts",
        "export function f() {\n  let count = 0;\n  return count;\n}\nexport class MyError extends Error {}",
      ],
      ["src/app/a.ts", 'import "../core/a.ts";'],
      [
        "src/gateway/a.ts",
        'import { Hono } from "hono"; import type { A } from "../app/a.ts"; new Date(ms);',
      ],
      [
        "src/cli/main.ts",
        'import fs from "node:fs"; import { serve } from "@hono/node-server"; console.log(process.argv);',
      ],
    ]);
    assert.deepEqual(violations(world), []);
  });

  test("follows an import through other files", () => {
    const world = new Map<string, string>([
      ["mod.ts", 'export * from "./src/core/a.ts";'],
      ["src/core/a.ts", core],
      ["src/core/b.ts", 'export type { A } from "./a.ts"; import type { R } from "ioredis";'],
    ]);
    assert.deepEqual([...reach("mod.ts", world).outside], ["ioredis"]);
  });
});
