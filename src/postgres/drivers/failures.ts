/**
 * What went wrong, in the library's words: SQLSTATEs, lost connections and deadlines as `MillstreamError`.
 *
 * @module
 */
import { type ErrorCode, isMillstreamError, MillstreamError } from "../../core/errors.ts";

/**
 * Where it went wrong, which decides what a lost reply means:
 *
 * - `connect` and `begin`: nothing was executed;
 * - `single`: a statement of its own, which may have been executed and committed;
 * - `transaction`: inside a transaction, which ends with its connection;
 * - `commit`: the transaction may have been committed.
 */
export type Phase = "connect" | "begin" | "single" | "transaction" | "commit";

const DOING: Readonly<Record<Phase, string>> = {
  connect: "connect to Postgres",
  begin: "begin the transaction",
  single: "run statement",
  transaction: "run statement in the transaction",
  commit: "commit",
};

/** An error that Postgres sent, in the form that all clients share. */
export interface ServerError {
  /** The SQLSTATE. */
  readonly code: string;
  readonly severity: string;
  readonly message: string;
}

/** Whether `error` came from the server, rather than from the client or the network. */
export function isServerError(error: unknown): error is ServerError {
  if (typeof error !== "object" || error === null) return false;
  const { code, severity } = error as { code?: unknown; severity?: unknown };
  return typeof code === "string" && /^[0-9A-Z]{5}$/.test(code) && typeof severity === "string";
}

/** Whether the connection is of no more use after `error`: it is lost, or the server ends it. */
export function endsConnection(error: unknown): boolean {
  return !isServerError(error) || error.severity === "FATAL" || error.severity === "PANIC";
}

/** Translates what a client threw. */
export function failure(error: unknown, phase: Phase): MillstreamError {
  if (isMillstreamError(error)) return error;
  if (isServerError(error) && (phase === "connect" || !endsConnection(error))) return refused(error, phase);
  const what = phase === "connect" ? "the attempt failed" : "the connection was lost";
  return lost(phase, `${what}${networkCode(error)}`, error);
}

/** What the runtime or the client calls it: ` (ECONNREFUSED)`. */
function networkCode(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? ` (${code})` : "";
}

/** The error for a reply that will not come, for example since the connection is gone. */
export function lost(phase: Phase, why: string, cause?: unknown): MillstreamError {
  const consequence = {
    connect: "nothing was executed",
    begin: "nothing was executed",
    single: "it may have been executed",
    transaction: "the transaction is rolled back",
    commit: "the transaction may have been committed",
  }[phase];
  const code: ErrorCode = phase === "single" || phase === "commit" ? "COMMIT_INDETERMINATE" : "UNAVAILABLE";
  return new MillstreamError(code, `Cannot ${DOING[phase]}: ${why}; ${consequence}`, {
    cause,
    ...(isServerError(cause) ? { details: { sqlState: cause.code } } : {}),
  });
}

/** The error for a reply that did not come in time. */
export function late(phase: Phase, ms: number): MillstreamError {
  if (phase !== "transaction") return lost(phase, `no reply within ${ms} ms`);
  return new MillstreamError(
    "DEADLINE_EXCEEDED",
    `Cannot ${DOING[phase]}: no reply within ${ms} ms; the transaction is rolled back`,
  );
}

/** The error for a transaction that a statement opened, on a connection that somebody else gets next. */
export function beginRefused(): MillstreamError {
  return new MillstreamError(
    "REJECTED",
    "Cannot begin a transaction by a statement: expected transaction() to be used; nothing was committed",
  );
}

/** The server turns COMMIT into ROLLBACK when an earlier statement failed, even if nobody looked at that failure. */
export function rolledBack(cause: MillstreamError | undefined): MillstreamError {
  const why = "a statement in it failed, so that it was rolled back";
  if (!cause) return new MillstreamError("REJECTED", `Cannot commit: ${why}`);
  const { code, message, retryable, details } = cause;
  return new MillstreamError(code, `Cannot commit: ${why}: ${message}`, { cause, retryable, details });
}

/** SQLSTATEs, or their first two characters. The longer one wins. */
const CODES: Readonly<Record<string, ErrorCode>> = {
  "40001": "CONCURRENCY_CONFLICT", // serialization_failure
  "40P01": "CONCURRENCY_CONFLICT", // deadlock_detected
  "40003": "COMMIT_INDETERMINATE", // statement_completion_unknown
  "08007": "COMMIT_INDETERMINATE", // transaction_resolution_unknown
  "08": "UNAVAILABLE", // connection_exception
  "53": "OVERLOADED", // insufficient_resources
  "57014": "DEADLINE_EXCEEDED", // query_canceled, by statement_timeout for example
  "57P": "UNAVAILABLE", // shutdown, crash, starting up
};

/** SQLSTATEs that are refusals, and yet may pass the next time. */
const TRANSIENT: ReadonlySet<string> = new Set(["55P03", "25P03", "25P04"]); // lock not available, idle too long

/**
 * Classes whose messages name tables, columns and constraints, but no values. Those of class 22 (data exceptions)
 * quote the value, and what `raise` says is up to who wrote it: both are found in `cause` only.
 */
const VALUE_FREE: ReadonlySet<string> = new Set([
  "08",
  "23",
  "25",
  "28",
  "3D",
  "3F",
  "40",
  "42",
  "53",
  "55",
  "57",
]);

function refused(error: ServerError, phase: Phase): MillstreamError {
  const { code: sqlState } = error;
  const code = CODES[sqlState] ?? CODES[sqlState.slice(0, 3)] ?? CODES[sqlState.slice(0, 2)] ?? "REJECTED";
  const why = VALUE_FREE.has(sqlState.slice(0, 2)) ? `: ${error.message}` : "";
  return new MillstreamError(code, `Cannot ${DOING[phase]}: Postgres refused it with ${sqlState}${why}`, {
    cause: error,
    details: { sqlState, ...whatItNames(error) },
    ...(TRANSIENT.has(sqlState) ? { retryable: true } : {}),
  });
}

/** Names of the constraint, table and column. Clients spell them `constraint` or `constraint_name`. */
function whatItNames(error: object): Record<string, string> {
  const fields = error as Record<string, unknown>;
  const names: Record<string, string> = {};
  for (const what of ["schema", "table", "column", "constraint"]) {
    const name = fields[what] ?? fields[`${what}_name`];
    if (typeof name === "string") names[what] = name;
  }
  return names;
}
