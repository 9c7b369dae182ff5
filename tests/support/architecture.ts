/**
 * Who may import whom, and what the sources keep away from. One table, and the function that holds sources against it.
 *
 * @module
 */
import { codeOf, importsOf } from "./imports.ts";

/** Sources by path from the root, such as `src/core/message.ts`. */
export type Sources = ReadonlyMap<string, string>;

/** What one folder may use. */
interface Rule {
  /** Folders it may import, beside itself. */
  readonly folders: readonly string[];
  /** Folders it may import types from, and nothing that runs. */
  readonly types?: readonly string[];
  /** Packages it may import: `hono` stands for `hono/factory` as well. */
  readonly packages?: readonly string[];
  /** `node:` modules. */
  readonly node?: boolean;
  /** What is only known when it runs. */
  readonly computed?: boolean;
}

const CORE = ["src/core", "src/ports"];
/** Each may import those left of it. */
const PATTERNS = ["src/idempotency", "src/messaging", "src/sourcing", "src/cqrs", "src/sagas", "src/observe"];
const EVERYTHING = [
  ...CORE,
  ...PATTERNS,
  "src/app",
  "src/memory",
  "src/redis",
  "src/postgres",
  "src/gateway",
  "src/testing",
];

/** The table. A folder that is not in it is a violation. */
export const RULES: Readonly<Record<string, Rule>> = {
  "src/core": { folders: [] },
  "src/ports": { folders: ["src/core"] },
  ...Object.fromEntries(
    PATTERNS.map((folder, at) => [folder, { folders: [...CORE, ...PATTERNS.slice(0, at)] }]),
  ),
  "src/app": { folders: [...CORE, ...PATTERNS, "src/memory"] },
  "src/memory": { folders: CORE },
  "src/redis": { folders: CORE, packages: ["ioredis"] },
  "src/postgres": {
    folders: CORE,
    packages: ["postgres", "pg", "@electric-sql/pglite"],
  },
  "src/gateway": {
    folders: [...CORE, ...PATTERNS],
    types: ["src/app"],
    packages: ["hono"],
  },
  "src/testing": {
    folders: [...CORE, ...PATTERNS, "src/memory"],
    types: ["src/app"],
  },
  "src/cli": {
    folders: [
      ...EVERYTHING,
      "adapters/kafka",
      "adapters/rabbitmq",
      "adapters/sqs",
      "adapters/nats",
      "mod.ts",
    ],
    packages: ["hono", "@hono/node-server", "valibot", "@electric-sql/pglite"],
    node: true,
    computed: true, // the user's own application module
  },
  "mod.ts": { folders: [...CORE, ...PATTERNS, "src/app", "src/memory"] },
  "adapters/kafka": {
    folders: CORE,
    packages: ["kafkajs", "@platformatic/kafka"],
  },
  "adapters/rabbitmq": { folders: CORE, packages: ["amqplib"] },
  "adapters/sqs": { folders: CORE, packages: ["aws4fetch"] },
  "adapters/nats": {
    folders: CORE,
    packages: ["@nats-io/jetstream", "@nats-io/transport-node", "@nats-io/nats-core"],
  },
};

/** What no source uses, and which sources do all the same. */
const FORBIDDEN: readonly {
  readonly what: string;
  readonly pattern: RegExp;
  readonly except: RegExp;
}[] = [
  {
    what: "console",
    pattern: /(?<![.\w])console\s*[.[]/,
    except: /^src\/cli\//,
  },
  {
    what: "process",
    pattern: /(?<![.\w"])process\s*[.[?]/,
    except: /^src\/cli\//,
  },
  { what: "Buffer", pattern: /(?<![.\w])Buffer\b/, except: /^src\/cli\// },
  {
    what: "setImmediate",
    pattern: /(?<![.\w])setImmediate\b/,
    except: /^src\/cli\//,
  },
  {
    what: "require()",
    pattern: /(?<![.\w])require\s*\(/,
    except: /^src\/cli\//,
  },
  {
    what: "__dirname",
    pattern: /\b__(dirname|filename)\b/,
    except: /^src\/cli\//,
  },
  { what: "Deno", pattern: /(?<![.\w"])Deno\s*\./, except: /^src\/cli\// },
  { what: "Bun", pattern: /(?<![.\w"])Bun\s*\./, except: /^src\/cli\// },
  {
    what: "Date.now() instead of a clock",
    pattern: /\bDate\s*\.\s*now\b/,
    except: /^src\/(core|cli)\//,
  },
  {
    what: "new Date() instead of a clock",
    pattern: /\bnew\s+Date\s*(\(\s*\)|[^\s(])/,
    except: /^src\/(core|cli)\//,
  },
  {
    what: "a timer instead of a clock",
    pattern: /(?<![.\w])set(Timeout|Interval)\s*\(/,
    except: /^src\/(core|cli)\//,
  },
  {
    what: "performance.now() instead of a clock",
    pattern: /\bperformance\s*\.\s*now\b/,
    except: /^src\/(core|cli)\//,
  },
  {
    what: "state of the module (let)",
    pattern: /^(export\s+)?(let|var)\s/m,
    except: /^src\/cli\//,
  },
  {
    what: "state of the module (an empty collection)",
    pattern:
      /^(export\s+)?const\s+[^=;]*=\s*(new\s+(Weak)?(Map|Set)\s*(<[^()]*>)?\(\s*\)|\[\s*\]|\{\s*\})\s*;/m,
    except: /^src\/cli\//,
  },
  {
    what: "class that is no error",
    pattern: /\bclass\s+(?!\w*Error\b)\w+/,
    except: /^src\/(cli|sourcing)\//,
  },
];

/** Every breach of the rules, each as one readable line. Empty if there is none. */
export function violations(sources: Sources): string[] {
  return [...sources].flatMap(([path, source]) => [
    ...importViolations(path, source, sources),
    ...tokenViolations(path, source),
  ]);
}

function importViolations(path: string, source: string, sources: Sources): string[] {
  const folder = folderOf(path);
  const rule = RULES[folder];
  if (!rule) return [`${path}: the folder ${folder} is in no rule`];
  return importsOf(source).flatMap(({ specifier, typeOnly, dynamic }) => {
    if (specifier === undefined) return rule.computed ? [] : [`${path}: imports something computed`];
    const target = resolve(path, specifier);
    if (target === undefined) {
      if (specifier.startsWith("node:")) {
        return rule.node ? [] : [`${path}: imports ${specifier}`];
      }
      const allowed = rule.packages?.includes(packageOf(specifier)) ?? false;
      return allowed ? [] : [`${path}: imports the package ${specifier}`];
    }
    if (!target.endsWith(".ts") || !sources.has(target)) {
      return [`${path}: imports ${target}, which does not exist`];
    }
    const to = folderOf(target);
    const allowed = to === folder || rule.folders.includes(to) ||
      (typeOnly && rule.types?.includes(to));
    if (allowed) return [];
    const only = rule.types?.includes(to) ? " otherwise than as a type" : "";
    return [`${path}: ${folder} imports ${target}${dynamic ? " dynamically" : ""}${only}`];
  });
}

function tokenViolations(path: string, source: string): string[] {
  const { text } = codeOf(source);
  const found = FORBIDDEN.filter(({ pattern, except }) => !except.test(path) && pattern.test(text));
  const reference = /^\/\/\/\s*<reference/m.test(source) &&
    !path.startsWith("src/cli/");
  return [
    ...found.map(({ what }) => `${path}: uses ${what}`),
    ...reference ? [`${path}: has a <reference>`] : [],
  ];
}

/** All that a file reaches: paths of sources, and specifiers of packages and of `node:` modules. */
export function reach(
  entry: string,
  sources: Sources,
): { readonly files: Set<string>; readonly outside: Set<string> } {
  const files = new Set([entry]);
  const outside = new Set<string>();
  for (const path of files) {
    const source = sources.get(path);
    if (source === undefined) {
      throw new Error(`Cannot read "${path}": expected it among the sources`);
    }
    for (const { specifier } of importsOf(source)) {
      const target = specifier === undefined ? undefined : resolve(path, specifier);
      if (target !== undefined) files.add(target);
      else outside.add(specifier ?? "something computed");
    }
  }
  return { files, outside };
}

/** The package of a bare specifier: `hono` of `hono/factory`, `@a/b` of `@a/b/c`. */
export function packageOf(specifier: string): string {
  return specifier.split("/").slice(0, specifier.startsWith("@") ? 2 : 1).join("/");
}

/** Path of a relative import, `undefined` for any other. */
function resolve(from: string, specifier: string): string | undefined {
  if (!/^\.\.?\//.test(specifier)) return undefined;
  return new URL(specifier, `file:///${from}`).pathname.slice(1);
}

/** `src/core` of `src/core/message.ts`, `adapters/nats` of `adapters/nats/mod.ts`, and `mod.ts` of itself. */
function folderOf(path: string): string {
  return path.split("/").slice(0, 2).join("/");
}
