/**
 * Brings the schema up to date. Migrations are numbered, only ever added to the end, and recorded in the table
 * `migrations`; each start asks for the highest number first, so that an up-to-date schema costs one read and no lock.
 *
 * @module
 */
import { describe, MillstreamError } from "../core/errors.ts";
import type { SqlDriver, SqlSession } from "../ports/sql.ts";
import { storeMigration } from "./migrations/0001_store.ts";
import { brokerMigration } from "./migrations/0002_broker.ts";
import { brokerStartsMigration } from "./migrations/0003_broker_starts.ts";
import { projectionMigration } from "./migrations/0004_projections.ts";
import { brokerPlansMigration } from "./migrations/0005_broker_plans.ts";
import { sagaMigration } from "./migrations/0006_sagas.ts";
import { appendMigration } from "./migrations/0007_append.ts";
import { streamsMigration } from "./migrations/0008_streams.ts";
import { outboxMigration } from "./migrations/0009_outbox.ts";
import { retentionMigration } from "./migrations/0010_retention.ts";
import { appendEachMigration } from "./migrations/0011_append_each.ts";

const MIGRATIONS: ReadonlyArray<(quotedSchema: string) => readonly string[]> = [
  storeMigration,
  brokerMigration,
  brokerStartsMigration,
  projectionMigration,
  brokerPlansMigration,
  sagaMigration,
  appendMigration,
  streamsMigration,
  outboxMigration,
  retentionMigration,
  appendEachMigration,
];

/**
 * The schema's name as an identifier in SQL text.
 *
 * @throws `INVALID_ARGUMENT` unless it is 1 to 41 of `a-z 0-9 _` and starts with a letter or underscore.
 */
export function quoteSchema(schema: string): string {
  if (typeof schema === "string" && /^[a-z_][a-z0-9_]{0,40}$/.test(schema) && !schema.startsWith("pg_")) {
    return `"${schema}"`;
  }
  throw new MillstreamError(
    "INVALID_ARGUMENT",
    `Cannot use ${
      describe(schema)
    } as schema: expected 1 to 41 of a-z 0-9 _, not starting with a digit or "pg_"`,
    { details: { option: "schema" } },
  );
}

/**
 * All migrations as one SQL script, for those who run it with their own tool, and the store with `migrate: false`.
 * Safe to run again; needs Postgres 14 or later.
 */
export function migrations(schema = "millstream"): string {
  const name = quoteSchema(schema);
  const statements = MIGRATIONS.flatMap((migration, index) => [
    ...migration(name),
    `insert into ${name}.migrations (number) values (${index + 1}) on conflict do nothing`,
  ]);
  return ["begin", lock(name), ...bookkeeping(name), ...statements, "commit"].map((text) => `${text};\n`)
    .join("\n");
}

/** Runs what is missing, in one transaction and under a lock, so that many processes may start at once. */
export async function migrate(driver: SqlDriver, schema: string): Promise<void> {
  const name = quoteSchema(schema);
  if (await currentNumber(driver, name) >= MIGRATIONS.length) return;
  await driver.transaction(async (session) => {
    await session.query(lock(name));
    if (!await exists(session, "to_regnamespace", name)) {
      await session.query(`create schema if not exists ${name}`);
    }
    for (const statement of bookkeeping(name).slice(1)) await session.query(statement);
    for (let number = await currentNumber(session, name) + 1; number <= MIGRATIONS.length; number++) {
      for (const statement of MIGRATIONS[number - 1]?.(name) ?? []) await session.query(statement);
      await session.query(`insert into ${name}.migrations (number) values ($1::int)`, [number]);
    }
  });
}

/** Refuses a schema that lacks migrations, with `UNAVAILABLE`. */
export async function checkMigrated(driver: SqlDriver, schema: string): Promise<void> {
  const number = await currentNumber(driver, quoteSchema(schema));
  if (number >= MIGRATIONS.length) return;
  throw new MillstreamError(
    "UNAVAILABLE",
    `Cannot use schema "${schema}": expected migration ${MIGRATIONS.length}, got ${number}. Run the migrations first`,
    { details: { schema, expected: MIGRATIONS.length, current: number } },
  );
}

async function currentNumber(session: SqlSession, name: string): Promise<number> {
  if (!await exists(session, "to_regclass", `${name}.migrations`)) return 0;
  const [row] = await session.query<{ number: number }>(
    `select coalesce(max(number), 0)::int as number from ${name}.migrations`,
  );
  return row?.number ?? 0;
}

async function exists(
  session: SqlSession,
  lookUp: "to_regclass" | "to_regnamespace",
  name: string,
): Promise<boolean> {
  const [row] = await session.query<{ found: boolean }>(`select ${lookUp}($1::text) is not null as found`, [
    name,
  ]);
  return row?.found ?? false;
}

const lock = (name: string): string => `select pg_advisory_xact_lock(hashtext('${name}.migrations'), 0)`;

const bookkeeping = (name: string): readonly string[] => [
  `create schema if not exists ${name}`,
  `create table if not exists ${name}.migrations (
  number int primary key,
  applied_at timestamptz not null default clock_timestamp()
)`,
];
