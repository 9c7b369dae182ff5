/**
 * Whose fault an error is. The same code means two things: data that the client sent, which it should hear about, and
 * data that the application made or stored, which is a failure here.
 *
 * @module
 */
import type { MessageDefinition } from "../core/definition.ts";
import { type ErrorCode, isMillstreamError, MillstreamError } from "../core/errors.ts";
import { validate } from "../core/schema.ts";

/** Codes that blame data or definitions. The gateway has already checked those of the request. */
const ABOUT_DATA: readonly ErrorCode[] = [
  "VALIDATION_FAILED",
  "UNKNOWN_SCHEMA_VERSION",
  "MALFORMED_MESSAGE",
  "UNSERIALIZABLE",
  "HANDLER_NOT_FOUND",
  "UNKNOWN_TOPIC",
];

/** Runs a command or query. What it throws about data is `INTERNAL` unless the client's own input is what is wrong. */
export async function blaming<T>(
  definition: MessageDefinition,
  input: unknown,
  work: () => Promise<T>,
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isMillstreamError(error, ...ABOUT_DATA) || !await isValid(definition, input)) throw error;
    throw new MillstreamError(
      "INTERNAL",
      `Cannot complete ${definition.kind} "${definition.type}": ${error.message}`,
      { cause: error },
    );
  }
}

async function isValid({ kind, type, schema }: MessageDefinition, input: unknown): Promise<boolean> {
  try {
    await validate(schema, input, `${kind} "${type}"`);
    return true;
  } catch {
    return false;
  }
}
