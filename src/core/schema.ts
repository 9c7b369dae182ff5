/**
 * Validation by any library that speaks Standard Schema (valibot, zod, arktype, ...). The types are copied from
 * https://standardschema.dev (version 1), as its authors intend, so that no dependency is needed.
 *
 * @module
 */
import { MillstreamError } from "./errors.ts";

/** The Standard Schema interface, version 1. */
export interface Schema<Input = unknown, Output = Input> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

/** What a schema's `validate` returns. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<SchemaIssue> };

/** One thing that is wrong with a value. */
export interface SchemaIssue {
  readonly message: string;
  readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined;
}

/** The type a schema produces. */
export type Output<S> = S extends Schema<infer _I, infer O> ? O : never;

/**
 * The value as the schema returns it: at once, or as a promise where the schema validates asynchronously.
 *
 * @param what What is validated, for the message: `event "order.placed"`.
 * @throws `VALIDATION_FAILED` with `details.issues: { path, message }[]`. The value itself is never in the error.
 */
export function validate<O>(schema: Schema<unknown, O>, value: unknown, what: string): O | Promise<O> {
  const result = schema["~standard"].validate(value);
  return result instanceof Promise ? result.then((later) => valid(later, what)) : valid(result, what);
}

function valid<O>(result: SchemaResult<O>, what: string): O {
  if (!result.issues) return result.value;
  const issues = result.issues.slice(0, 20).map((issue) => ({
    path: (issue.path ?? []).map((part) => String(typeof part === "object" ? part.key : part)).join("."),
    message: issue.message,
  }));
  const first = issues[0];
  throw new MillstreamError(
    "VALIDATION_FAILED",
    `Cannot accept ${what}: ${first?.path ? `"${first.path}": ` : ""}${first?.message ?? "invalid"}` +
      (issues.length > 1 ? ` (and ${issues.length - 1} more)` : ""),
    { details: { issues } },
  );
}
