/**
 * The tagged template `sql`: text with placeholders, never with values.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import type { Sql, SqlFragment, SqlQuery, SqlRow, SqlSession, SqlValue } from "../ports/sql.ts";

/**
 * Marks what this module made. A value is part of the text only if it has the mark: JSON from outside may look like a
 * fragment, but it cannot have a symbol.
 */
const FRAGMENT: unique symbol = Symbol.for("millstream.sql.fragment") as never;

/** An object of the application as a row. */
type InsertRow = Readonly<Record<string, SqlValue>>;

/**
 * The tag for one session: `` sql`...` `` is a statement that runs when it is awaited, once however often that is, and
 * can stand inside another one instead. `sql({ a: 1 })` and `sql([{ a: 1 }, { a: 2 }])` stand for `("a") values ($1)`
 * and so on; `sql("orders")` and `sql("app.orders")` for quoted identifiers.
 *
 * @throws `INVALID_ARGUMENT` for an identifier that is empty, longer than 63 bytes or contains NUL, and for rows that
 * are none or differ in their keys.
 */
export function sqlTag(session: SqlSession): Sql {
  function sql<Row extends SqlRow>(
    first: unknown,
    ...values: readonly (SqlValue | SqlFragment)[]
  ): SqlFragment | SqlQuery<Row> {
    if (isTemplate(first)) return query(session, { strings: first, values });
    if (typeof first === "string") return fragment([quoteIdentifier(first)], []);
    return rowsFragment(first as InsertRow | readonly InsertRow[]);
  }
  return sql as Sql;
}

/** What a fragment, with all that is inside it, amounts to. */
export function renderSql(
  root: SqlFragment,
): { readonly text: string; readonly values: readonly SqlValue[] } {
  const values: SqlValue[] = [];
  const text = render(root);
  return { text, values };

  function render({ strings, values: parts }: SqlFragment): string {
    return strings.reduce((text, next, index) => `${text}${place(parts[index - 1])}${next}`);
  }

  function place(part: SqlValue | SqlFragment): string {
    return isFragment(part) ? render(part) : `$${values.push(part)}`;
  }
}

function query<Row extends SqlRow>(session: SqlSession, { strings, values }: SqlFragment): SqlQuery<Row> {
  let result: Promise<readonly Row[]> | undefined;
  const start = async (): Promise<readonly Row[]> => {
    const { text, values: flat } = renderSql(statement);
    return await session.query<Row>(text, flat);
  };
  const statement: SqlQuery<Row> = {
    ...fragment(strings, values),
    then: (onResult, onError) => (result ??= start()).then(onResult, onError),
  };
  return statement;
}

function fragment(strings: readonly string[], values: SqlFragment["values"]): SqlFragment {
  return { strings, values, [FRAGMENT]: true } as SqlFragment;
}

function isFragment(value: unknown): value is SqlFragment {
  return typeof value === "object" && value !== null && FRAGMENT in value;
}

function isTemplate(value: unknown): value is TemplateStringsArray {
  return Array.isArray(value) && "raw" in value;
}

function rowsFragment(given: InsertRow | readonly InsertRow[]): SqlFragment {
  const rows = (Array.isArray(given) ? given : [given]) as readonly unknown[];
  const columns = columnsOf(rows[0]);
  const values = rows.flatMap((row, index) => valuesOf(row, columns, index));

  const width = columns.length;
  const list = columns.map(quotePart).join(",");
  const strings = values.map((_, index) =>
    index % width > 0 ? "," : index > 0 ? "),(" : `(${list}) values (`
  );
  return fragment([...strings, ")"], values);
}

function columnsOf(row: unknown): readonly string[] {
  const columns = isRow(row) ? Object.keys(row) : [];
  if (columns.length > 0) return columns;
  throw invalid(`Cannot build rows: expected objects with at least one key, got ${kind(row)}`);
}

function valuesOf(row: unknown, columns: readonly string[], index: number): SqlValue[] {
  if (
    isRow(row) && Object.keys(row).length === columns.length &&
    columns.every((name) => Object.hasOwn(row, name))
  ) {
    return columns.map((name) => row[name]);
  }
  const got = isRow(row) ? describe(Object.keys(row)) : kind(row);
  throw invalid(`Cannot build row ${index}: expected the keys ${describe(columns)}, got ${got}`);
}

function isRow(value: unknown): value is InsertRow {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !isFragment(value);
}

/** Says what it is, not what is in it: values are nobody's business. */
function kind(value: unknown): string {
  if (isRow(value)) return "an empty object";
  return value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;
}

/** Quotes `orders` and `app.orders`. */
function quoteIdentifier(identifier: string): string {
  return identifier.split(".").map(quotePart).join(".");
}

/** Postgres cuts longer names, silently, after 63 bytes. */
function quotePart(name: string): string {
  const bytes = new TextEncoder().encode(name).length;
  if (bytes >= 1 && bytes <= 63 && !name.includes("\0")) return `"${name.replaceAll('"', '""')}"`;
  throw invalid(`Cannot use ${describe(name)} as identifier: expected 1 to 63 bytes without NUL`);
}

function invalid(message: string): MillstreamError {
  return new MillstreamError("INVALID_ARGUMENT", message);
}
