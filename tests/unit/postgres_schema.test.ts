import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import { migrations, quoteSchema } from "../../src/postgres/migrate.ts";

describe("schema names", () => {
  test("plain lower-case names are quoted, reserved words of SQL included", () => {
    for (const name of ["millstream", "a", "_x9", "user", "x".repeat(41)]) {
      assert.equal(quoteSchema(name), `"${name}"`);
    }
  });

  test("everything else is refused before it can become SQL text", () => {
    const bad = [
      "",
      "A",
      "9a",
      'x"; drop schema public; --',
      "a b",
      "a-b",
      "ä",
      "a\u0000",
      "pg_x",
      "x".repeat(42),
      "a\n",
    ];
    for (const name of bad) {
      assert.throws(
        () => quoteSchema(name),
        (error) => isMillstreamError(error, "INVALID_ARGUMENT"),
        name,
      );
    }
    assert.throws(
      () => quoteSchema(undefined as unknown as string),
      (error) => isMillstreamError(error, "INVALID_ARGUMENT"),
    );
  });
});

describe("migrations", () => {
  test("are one script between begin and commit, in the given schema only", () => {
    const script = migrations("orders");
    assert.match(script, /^begin;\n/);
    assert.match(script, /\ncommit;\n$/);
    assert.ok(!script.includes("millstream"), "names another schema");
    assert.match(script, /create schema if not exists "orders"/);
  });
});
