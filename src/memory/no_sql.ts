/**
 * SQL where there is none.
 *
 * @module
 */
import { MillstreamError } from "../core/errors.ts";
import type { Sql, SqlFragment } from "../ports/sql.ts";

/** A tag whose statements all reject with `UNSUPPORTED`, and say which stores have SQL. */
export const noSql: Sql = statement as Sql;

/** Both a statement and a fragment: it fails only when it is awaited, as a real one does. */
function statement(): SqlFragment & PromiseLike<never> {
  return {
    strings: [""],
    values: [],
    then: (onResolved, onRejected) => Promise.reject<never>(unsupported()).then(onResolved, onRejected),
  };
}

function unsupported(): MillstreamError {
  return new MillstreamError(
    "UNSUPPORTED",
    'Cannot run SQL on store "memory": expected a store with SQL, that is Postgres or PGlite. Keep the state of handlers ' +
      "in memory elsewhere, or use one of those",
  );
}
