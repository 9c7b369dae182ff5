/**
 * The SQL seam: the few calls the library makes on a Postgres client, and the tagged template that handlers use.
 *
 * @module
 */

/** A row. */
export type SqlRow = Record<string, unknown>;

/** A value for a placeholder. Arrays become Postgres arrays; objects must be turned into JSON text by the caller. */
export type SqlValue =
  | string
  | number
  | bigint
  | boolean
  | null
  | undefined
  | Date
  | Uint8Array
  | readonly (string | number | bigint | boolean | null)[];

/** Runs SQL on one session: a pool for single statements, or one transaction. */
export interface SqlSession {
  /**
   * Runs one statement with `$1, $2, ...` placeholders. Results are typed the same on every driver: `int2`, `int4`,
   * `float4`, `float8` as number, `int8` and `numeric` as **string**, `bool` as boolean, `timestamptz` as `Date` (cut to
   * milliseconds), `json(b)` parsed, `bytea` as `Uint8Array`, everything else as string; arrays of built-in types
   * accordingly. Values are sent without a type: where the statement does not tell it, write a cast (`$1::int`).
   *
   * It settles within the driver's deadline, also on a half-open connection.
   *
   * @throws `UNAVAILABLE`, `OVERLOADED` (no connection was free in time, or the server lacks resources),
   * `DEADLINE_EXCEEDED` (inside a transaction, which is rolled back; or stopped by the server), `COMMIT_INDETERMINATE` (a
   * single statement whose reply was lost or did not come in time), `CONCURRENCY_CONFLICT` (40001, 40P01), `REJECTED` with
   * `details.sqlState`, `INVALID_ARGUMENT` for a value that SQL has no place for, or `CLOSED`.
   */
  query<Row extends SqlRow = SqlRow>(text: string, values?: readonly SqlValue[]): Promise<readonly Row[]>;
}

/** A Postgres client behind the seam. */
export interface SqlDriver extends SqlSession, AsyncDisposable {
  /** Name for messages: `postgres`, `pg`, `pglite`. */
  readonly name: string;
  /** Whether all calls share one session, so that transactions queue behind each other. */
  readonly singleSession: boolean;

  /**
   * Runs `work` between BEGIN and COMMIT on a session of its own (read committed). If the session dies, every call
   * on it rejects, also late ones, and nothing is committed: never on another session.
   *
   * @throws what `work` threw, after ROLLBACK; `COMMIT_INDETERMINATE` if the reply to COMMIT was lost.
   */
  transaction<T>(work: (session: SqlSession) => Promise<T>): Promise<T>;

  /** Several statements without placeholders, for migrations. */
  script(text: string): Promise<void>;
}

/**
 * The tag that handlers, projections and queries get: `` await sql`select * from orders where id = ${id}` ``. Values
 * become placeholders, never text.
 */
export interface Sql {
  /** Runs a statement. */
  <Row extends SqlRow = SqlRow>(
    strings: TemplateStringsArray,
    ...values: readonly (SqlValue | SqlFragment)[]
  ): SqlQuery<Row>;
  /** `` sql`insert into t ${sql({ a: 1, b: 2 })}` `` and, for several rows of the same shape, `sql([...])`. */
  (rows: Readonly<Record<string, SqlValue>> | ReadonlyArray<Readonly<Record<string, SqlValue>>>): SqlFragment;
  /** A quoted identifier: `` sql`select * from ${sql("orders")}` ``. */
  (identifier: string): SqlFragment;
}

/** A statement that runs when it is awaited, and can be part of another before that. */
export interface SqlQuery<Row extends SqlRow = SqlRow> extends SqlFragment, PromiseLike<readonly Row[]> {}

/** A piece of SQL with its values. */
export interface SqlFragment {
  readonly strings: readonly string[];
  readonly values: readonly (SqlValue | SqlFragment)[];
}
