import assert from "node:assert/strict";
import { test } from "node:test";
import { brokerFeatures, guaranteeTable } from "../support/guarantees.ts";
import { readProject } from "../support/sources.ts";

const BEGIN =
  "<!-- brokers: written from the feature records, checked by tests/unit/readme_brokers.test.ts -->";
const END = "<!-- /brokers -->";

test("the README's table of brokers says what the brokers say", async () => {
  const readme = readProject("README.md");
  const table = guaranteeTable(await brokerFeatures());
  const start = readme.indexOf(BEGIN);
  assert.ok(start >= 0, `README.md lacks ${BEGIN}`);
  const written = readme.slice(start + BEGIN.length, readme.indexOf(END)).trim();
  assert.equal(written, table, `README.md is out of date: put this between the marks\n\n${table}\n`);
});

test("every feature that a broker lacks has its reason, and none that it has", async () => {
  for (const broker of await brokerFeatures()) {
    const { name, reasons, emulated: _, ...features } = broker;
    for (const [feature, has] of Object.entries(features)) {
      const reason = reasons[feature as keyof typeof reasons];
      assert.equal(reason === undefined, has, `${name}: ${feature} is ${has}, its reason ${reason}`);
    }
  }
});
