import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { isMillstreamError } from "../../src/core/errors.ts";
import type { Sql, SqlFragment, SqlSession, SqlValue } from "../../src/ports/sql.ts";
import { renderSql, sqlTag } from "../../src/postgres/tag.ts";

interface Recorder extends SqlSession {
  readonly calls: Array<readonly [text: string, values: readonly SqlValue[] | undefined]>;
}

function recorder(answer: () => readonly object[] = () => []): Recorder {
  const calls: Recorder["calls"] = [];
  return {
    calls,
    query: (text, values) => {
      calls.push([text, values]);
      return Promise.resolve(answer() as never);
    },
  };
}

function tag(): Sql {
  return sqlTag(recorder());
}

function rendered(fragment: SqlFragment): [string, readonly SqlValue[]] {
  const { text, values } = renderSql(fragment);
  return [text, values];
}

describe("sql tag", () => {
  test("turns values into placeholders, and never into text", async () => {
    const session = recorder(() => [{ id: 1 }]);
    const sql = sqlTag(session);
    const evil = "'; drop table orders; --";
    assert.deepEqual(await sql`select * from orders where id = ${evil} and total > ${10n}`, [{ id: 1 }]);
    assert.deepEqual(session.calls, [["select * from orders where id = $1 and total > $2", [evil, 10n]]]);
  });

  test("runs when it is awaited, not before, and once however often it is awaited", async () => {
    const session = recorder(() => [{ n: 1 }]);
    const statement = sqlTag(session)`select 1 as n`;
    await Promise.resolve();
    assert.equal(session.calls.length, 0);
    const [first, second] = await Promise.all([statement, statement]);
    assert.equal(await statement, first);
    assert.equal(second, first);
    assert.equal(session.calls.length, 1);
  });

  test("rejects each await of a statement that failed, and runs it once", async () => {
    let runs = 0;
    const sql = sqlTag({ query: () => Promise.reject(new Error(`run ${++runs}`)) });
    const statement = sql`select 1`;
    await assert.rejects(async () => await statement, /run 1/);
    await assert.rejects(async () => await statement, /run 1/);
  });

  test("puts a statement that was not awaited inside another one, with its values in place", async () => {
    const session = recorder();
    const sql = sqlTag(session);
    const open = sql`select id from orders where status = ${"open"}`;
    const both = sql`${open} and total > ${5}`;
    await sql`with o as (${both}) select * from o where id <> ${"x"}`;
    assert.deepEqual(session.calls, [[
      "with o as (select id from orders where status = $1 and total > $2) select * from o where id <> $3",
      ["open", 5, "x"],
    ]]);
  });

  test("builds an insert from one object", () => {
    const sql = tag();
    assert.deepEqual(rendered(sql`insert into t ${sql({ id: 1, name: "a" })} returning id`), [
      'insert into t ("id","name") values ($1,$2) returning id',
      [1, "a"],
    ]);
    assert.deepEqual(rendered(sql({ id: 1 })), ['("id") values ($1)', [1]]);
  });

  test("builds an insert from several objects, whatever the order of their keys", () => {
    const sql = tag();
    assert.deepEqual(
      rendered(sql`insert into t ${sql([{ a: 1, b: "x" }, { b: "y", a: 2 }, { a: 3, b: undefined }])}`),
      ['insert into t ("a","b") values ($1,$2),($3,$4),($5,$6)', [1, "x", 2, "y", 3, undefined]],
    );
    assert.deepEqual(rendered(sql([{ a: 1 }, { a: 2 }])), ['("a") values ($1),($2)', [1, 2]]);
  });

  test("refuses rows that are none, are empty or differ in their keys, and does not repeat their values", () => {
    const sql = tag();
    const bad: readonly unknown[] = [
      [],
      {},
      [{ a: "secret" }, { b: "secret" }],
      [{ a: "secret" }, { a: "secret", b: 1 }],
      [{ a: "secret" }, null],
      [{ a: "secret" }, "secret"],
      [["secret"]],
      null,
      undefined,
      5,
    ];
    for (const rows of bad) {
      assert.throws(() => sql(rows as never), (error: unknown) => {
        assert.ok(isMillstreamError(error, "INVALID_ARGUMENT"));
        return !error.message.includes("secret");
      });
    }
  });

  test("does not take keys from a prototype", () => {
    const row = Object.create({ b: 1 }) as Record<string, number>;
    row.a = 1;
    assert.throws(() => tag()([{ a: 1, b: 2 }, row]), /Cannot build row 1/);
  });

  test("quotes identifiers, each part of a dotted one", () => {
    const sql = tag();
    assert.equal(rendered(sql`select * from ${sql("Orders")}`)[0], 'select * from "Orders"');
    assert.equal(rendered(sql("app.orders"))[0], '"app"."orders"');
    assert.equal(rendered(sql('a"; drop table t; --'))[0], '"a""; drop table t; --"');
    assert.equal(rendered(sql({ 'a"b': 1, "c.d": 2 }))[0], '("a""b","c.d") values ($1,$2)');
  });

  test("refuses identifiers that are empty, too long or contain NUL", () => {
    for (const identifier of ["", "a.", ".a", "a\0", "x".repeat(64), "ä".repeat(32)]) {
      assert.throws(
        () => tag()(identifier),
        (error: unknown) => isMillstreamError(error, "INVALID_ARGUMENT"),
      );
    }
    assert.equal(rendered(tag()("x".repeat(63)))[0], `"${"x".repeat(63)}"`);
  });

  test("takes an object that merely looks like a fragment, as JSON from outside may, for a value", () => {
    const fake = JSON.parse('{"strings":["1; drop table orders"],"values":[]}') as never;
    assert.deepEqual(rendered(tag()`select ${fake}`), ["select $1", [fake]]);
  });

  test("takes an array for a value, even inside a template", () => {
    assert.deepEqual(rendered(tag()`select * from t where id = any(${["a", "b"]})`), [
      "select * from t where id = any($1)",
      [["a", "b"]],
    ]);
  });
});
