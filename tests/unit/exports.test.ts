import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { packageOf, reach } from "../support/architecture.ts";
import { inProject, librarySources, readProject } from "../support/sources.ts";

const npm = JSON.parse(readProject("package.json"));
const jsr = JSON.parse(readProject("deno.json"));
const sources = librarySources();

/** The one package that each export may load. */
const DRIVERS: Readonly<Record<string, readonly string[]>> = {
  ".": [],
  "./redis": ["ioredis"],
  "./postgres": ["postgres"],
  "./gateway": ["hono"],
  "./testing": [],
  "./kafka": ["kafkajs", "@platformatic/kafka"],
  "./rabbitmq": ["amqplib"],
  "./sqs": ["aws4fetch"],
  "./nats": ["@nats-io/jetstream", "@nats-io/transport-node", "@nats-io/nats-core"],
};

describe("package.json and deno.json", () => {
  test("export the same names", () => {
    const names = Object.keys(npm.exports).filter((key) => key !== "./package.json");
    assert.deepEqual(names.sort(), Object.keys(jsr.exports).sort());
  });

  test("have one version", () => {
    assert.equal(npm.version, jsr.version);
    assert.match(npm.version, /^\d+\.\d+\.\d+/);
  });

  test("ask for the same versions of other packages", () => {
    const ranges = {
      ...npm.devDependencies,
      ...npm.peerDependencies,
      ...npm.dependencies,
      ...optionalOf(npm),
    };
    for (const [name, specifier] of Object.entries(jsr.imports)) {
      const range = name in npm.devDependencies ? npm.devDependencies[name] : ranges[name];
      assert.equal(
        specifier,
        `npm:${name}@${range}`,
        `deno.json imports ${name}`,
      );
    }
    for (const name of Object.keys(npm.dependencies)) {
      assert.ok(name in jsr.imports, `deno.json lacks ${name}`);
    }
  });
});

describe("each export", () => {
  for (const [name, source] of Object.entries(jsr.exports as Record<string, string>)) {
    test(`${name} is the same file in both, and exists`, () => {
      assert.ok(inProject(source), `${source} does not exist`);
      const built = `./dist/${source.slice(2).replace(/\.ts$/, "")}`;
      assert.deepEqual(npm.exports[name], {
        types: `${built}.d.ts`,
        default: `${built}.js`,
      });
    });

    test(`${name} loads no other's driver`, () => {
      const packages = [...reach(source.slice(2), sources).outside].map(packageOf);
      const foreign = packages.filter((found) => !DRIVERS[name]?.includes(found));
      assert.deepEqual(foreign, []);
    });
  }
});

function optionalOf(
  { optionalDependencies = {} }: {
    readonly optionalDependencies?: Record<string, string>;
  },
): Record<
  string,
  string
> {
  return optionalDependencies;
}
